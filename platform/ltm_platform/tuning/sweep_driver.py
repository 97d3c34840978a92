"""A sweep from its checks to its summary."""

from __future__ import annotations

import csv
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ltm_platform import checks, tracking
from ltm_platform.errors import UserError
from ltm_platform.job import JobSpec
from ltm_platform.ray_cluster import attach
from ltm_platform.runs.driver import location_tags
from ltm_platform.storage import addresses, locations
from ltm_platform.storage.checkpoints import best as best_checkpoint
from ltm_platform.storage.checkpoints import stored
from ltm_platform.storage.files import BEST_FILE, PICTURE_FILE, SWEEP_FILE
from ltm_platform.storage.manifest import job_of
from ltm_platform.storage.path import is_address
from ltm_platform.storage.run_folder import RunFolder
from ltm_platform.tracking.runs import TRIALS_TAG
from ltm_platform.tuning.importance import Importance, importance
from ltm_platform.tuning.objectives import SweepObjective
from ltm_platform.tuning.params import FOLD, Values, with_values
from ltm_platform.tuning.picture import draw_fronts
from ltm_platform.tuning.results import TrialResult, averaged, best, failures, front
from ltm_platform.tuning.spec import Stage, Sweep, read_stages
from ltm_platform.tuning.trial import TrialSettings, trial_job

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from ltm_platform.checks import CheckedJob
    from ltm_platform.data import Dataset
    from ltm_platform.ray_cluster.resources import Resources
    from ltm_platform.tracking import TrackedSweep

ACCURACY = SweepObjective("val/top1", "max")
COSTS = (SweepObjective("model/gmacs", "min"), SweepObjective("bench/latency_ms", "min"))
TABLE_FILE = "trials.csv"


@dataclass(frozen=True, slots=True)
class Plan:
    """A sweep that passed all checks, with what they decided."""

    sweep: Sweep
    stages: tuple[Stage, ...]
    checked: CheckedJob
    """The job that the trials vary."""
    resources: Resources
    at_once: int
    """Trials that there is room for."""


@dataclass(frozen=True, slots=True)
class SweepSummary:
    """What a finished sweep shows."""

    trials: tuple[TrialResult, ...]
    best: TrialResult | None
    fronts: dict[str, list[TrialResult]]
    """Cost -> the trials that no other beats in accuracy and in that cost."""
    importance: tuple[Importance, ...]
    """One for every objective."""
    failures: dict[str, list[str]]
    folder: Path
    """Where the best job, the picture and the table are."""


def plan_sweep(sweep: Sweep, resources: Resources) -> Plan:
    """Check everything that can be known to be wrong before a trial starts.

    Raises:
        UserError: one sentence says what and what to change.
    """
    stages = read_stages(sweep)
    job = stages[0].job
    if job.cluster.storage and is_address(job.cluster.storage):
        raise job.error(
            "cluster.storage",
            f"cluster.storage is {job.cluster.storage!r}, but a sweep keeps its trials in a "
            f"folder: name one that all nodes share, or null",
        )
    checked = checks.check(stages[0].job, resources)
    for param in stages[0].params:
        if param.field in ("model.backbone", "model.method") and isinstance(param.domain, Values):
            for value in param.domain.values:
                source = f"--param {param.field}={value}"
                checks.check_names(with_values(checked.job, {param.field: value}, source))
    workers = checked.batch.workers
    if checked.use_gpu:
        on_each = int(1 / checked.job.cluster.gpus_per_worker)
        room: float = int(resources.gpus) * on_each // workers
    else:
        room = resources.cpus // (workers * checked.job.cluster.cpus_per_worker)
    return Plan(sweep, stages, checked, resources, max(1, int(room)))


def check_nodes(plan: Plan) -> None:
    """Check that every node of the Ray that was joined can store trials and record them.

    Raises:
        UserError: one cannot; the sentence says what to change.
    """
    job = plan.checked.job
    nodes = attach.check_shared_storage(job)
    store = tracking.tracking_uri(job.tracking.uri)
    if addresses.has_secret(store):
        raise UserError(
            f"the tracking store is {locations.shown(store)}: trials that run on a cluster would "
            f"have to be told its password; name an MLflow server that asks for none"
        )
    if nodes > 1 and store.startswith("sqlite:"):
        raise job.error(
            "tracking.uri",
            f"tracking.uri is {store!r}, a file on this node, but trials on {nodes} nodes record "
            f"themselves: name a server that all of them reach",
        )


def drive_sweep(
    plan: Plan,
    folder: RunFolder,
    ray: AbstractContextManager[Any],
    watcher: Callable[[TrialResult], None],
) -> SweepSummary:
    """Run all trials, or those that are left. Ray must be running inside of ``ray``.

    Raises:
        KeyboardInterrupt: SIGINT or SIGTERM came; `drive_sweep` resumes from there.
    """
    from ltm_platform.runs.driver import sigterm_is_interrupt
    from ltm_platform.tuning.latency import measured_alone
    from ltm_platform.tuning.sweep import run_stage

    job = JobSpec.from_dict(plan.sweep.job)
    with (
        sigterm_is_interrupt(),
        tracking.tracked_sweep(job, folder.name, folder.path) as tracked,
    ):
        for key, value in location_tags().items():
            tracked.tag(key, value)
        tracked.log_files([folder.path / SWEEP_FILE], "sweep")
        settings = TrialSettings(
            job=job,
            folder=folder.path / "trials",
            parent=tracked.run_id,
            resources=plan.resources,
        )
        total = sum(stage.trials for stage in plan.stages)
        tracked.tag(TRIALS_TAG, f"0/{total}")
        ended: set[str] = set()

        def look(trial: TrialResult) -> None:
            watcher(trial)
            if trial.ended:
                ended.add(trial.name)
                tracked.tag(TRIALS_TAG, f"{len(ended)}/{total}")

        trials: list[TrialResult] = []
        found: dict[str, Any] = {}
        chosen: TrialResult | None = None
        with ray:
            for number, stage in enumerate(plan.stages, start=1):
                stage_job = with_values(stage.job, found, "the stage before")
                done = run_stage(
                    replace(stage, job=stage_job),
                    replace(settings, job=stage_job),
                    folder.path / f"tune-{number}",
                    tracked,
                    earlier={trial.name for trial in trials},
                    at_once=plan.at_once,
                    use_gpu=plan.checked.use_gpu,
                    watcher=look,
                )
                if plan.at_once > 1 and not plan.checked.use_gpu:
                    classes = len(plan.checked.dataset.classes)
                    done = measured_alone(done, stage_job, classes, tracked, settings.folder)
                trials += done
                chosen = best(averaged(done), stage.objectives)
                if chosen is None:
                    break
                found |= chosen.values
        _complete_runs(tracked, settings.folder, plan.checked.dataset, trials)
        if chosen:
            chosen = replace(chosen, values=found)
            write_best(folder.path / BEST_FILE, job, chosen, len(trials))
        summary = summarize(plan, trials, chosen, folder.path)
        _log_summary(tracked, summary)
        if chosen:
            _log_model(tracked, RunFolder(settings.folder / chosen.name), plan.checked.dataset)
    return summary


def _log_summary(tracked: TrackedSweep, summary: SweepSummary) -> None:
    files = [summary.folder / name for name in (BEST_FILE, PICTURE_FILE, TABLE_FILE)]
    tracked.log_files([file for file in files if file.exists()], "sweep")
    if summary.best:
        tracked.tag(tracking.BEST_TRIAL_TAG, summary.best.name)
    tracked.tag("ltm.trials_failed", str(sum(map(len, summary.failures.values()))))
    shares = {
        f"importance/{found.objective.metric}/{field}": share
        for found in summary.importance
        for field, share in found.shares.items()
    }
    tracked.log_metrics(shares, step=0, time_ms=int(time.time() * 1000))


def _complete_runs(
    tracked: TrackedSweep, folder: Path, dataset: Dataset, trials: Sequence[TrialResult]
) -> None:
    """Metrics and pictures of trials that were stopped early, and then killed before their runs
    had all of them."""
    from ltm_platform.runs.network_artifacts import CheckpointedModel, log_pictures

    for trial in trials:
        if trial.state != "stopped early":
            continue
        path = folder / trial.name
        tracked.complete_trial(path, trial.metrics)
        if chosen := best_checkpoint(stored(RunFolder(path))):
            with tracked.ended_trial(path) as run:
                log_pictures(run, CheckpointedModel(job_of(chosen.path), dataset, chosen))


def _log_model(tracked: TrackedSweep, trial: RunFolder, dataset: Dataset) -> None:
    """The network of the best trial as a model; of cross-validation there is none to keep."""
    from ltm_platform.runs.network_artifacts import CheckpointedModel, log_model

    chosen = best_checkpoint(stored(trial))
    if chosen:
        with tracked.ended_trial(trial.path) as run:
            log_model(run, CheckpointedModel(job_of(chosen.path), dataset, chosen))


def write_best(path: Path, job: JobSpec, chosen: TrialResult, trials: int) -> None:
    """The best trial as a job file, ready to be submitted."""
    note = f"# The best of {trials} trials: {chosen.name}\n"
    path.write_text(note + trial_job(job, chosen.values).to_yaml())


def summarize(
    plan: Plan, trials: Sequence[TrialResult], chosen: TrialResult | None, folder: Path
) -> SweepSummary:
    """What all trials show; the table and the picture go into ``folder``."""
    trials = sorted(trials, key=lambda trial: trial.name)
    last = plan.stages[-1]
    merged = averaged(trials)
    varied = [param for param in last.params if param.field != FOLD]
    weighed = [trial for trial in merged if all(param.field in trial.values for param in varied)]
    _write_table(folder / TABLE_FILE, trials)
    if any(trial.state == "finished" for trial in merged):
        draw_fronts(merged, ACCURACY, COSTS, folder / PICTURE_FILE)
    return SweepSummary(
        trials=tuple(merged),
        best=chosen,
        fronts={cost.metric: front(merged, (ACCURACY, cost)) for cost in COSTS},
        importance=tuple(importance(weighed, varied, one) for one in last.objectives),
        failures=failures(trials),
        folder=folder,
    )


def _write_table(path: Path, trials: Sequence[TrialResult]) -> None:
    fields = sorted({field for trial in trials for field in trial.values})
    metrics = sorted({key for trial in trials for key in trial.metrics})
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", "state", "epochs", *fields, *metrics, "error"])
        for trial in trials:
            values = [trial.values.get(field) for field in fields]
            measured = [trial.metrics.get(key) for key in metrics]
            row = [trial.name, trial.state, trial.epoch, *values, *measured, trial.error]
            writer.writerow(row)
