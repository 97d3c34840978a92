"""A sweep from its checks to its summary."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltm_platform import preflight, tracking
from ltm_platform.launch.embedded import embedded_ray
from ltm_platform.tuning.importance import importance
from ltm_platform.tuning.objectives import Objective
from ltm_platform.tuning.params import Values, with_values
from ltm_platform.tuning.picture import draw_fronts
from ltm_platform.tuning.results import TrialResult, best, failures, front
from ltm_platform.tuning.spec import SWEEP_FILE, Stage, Sweep, read_stage
from ltm_platform.tuning.trial import TrialSettings, trial_job

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ltm_platform.launch.folder import RunFolder
    from ltm_platform.preflight import Ready, Resources

ACCURACY = Objective("val/top1", "max")
COSTS = (Objective("model/gmacs", "min"), Objective("bench/latency_ms", "min"))
BEST_FILE = "best.yaml"
PICTURE_FILE = "pareto.png"
TABLE_FILE = "trials.csv"


@dataclass(frozen=True, slots=True)
class Plan:
    """A sweep that can start, with all that was decided on the way."""

    sweep: Sweep
    stage: Stage
    ready: Ready
    """The job that the trials vary."""
    resources: Resources
    at_once: int
    """Trials that there is room for."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a finished sweep shows."""

    trials: tuple[TrialResult, ...]
    best: TrialResult | None
    fronts: dict[str, list[TrialResult]]
    """Cost -> the trials that no other beats in accuracy and in that cost."""
    importance: dict[str, float]
    failures: dict[str, list[str]]
    folder: Path
    """Where the best job, the picture and the table are."""


def plan_sweep(sweep: Sweep, resources: Resources) -> Plan:
    """Check everything that can be known to be wrong before a trial starts.

    Raises:
        UserError: one sentence says what and what to change.
    """
    stage = read_stage(sweep)
    ready = preflight.check(stage.job, resources)
    for param in stage.params:
        if param.field in ("model.backbone", "model.method") and isinstance(param.domain, Values):
            for value in param.domain.values:
                source = f"{param.field}={value}"
                preflight.check_names(with_values(stage.job, {param.field: value}, source))
    workers = ready.batch.workers
    if ready.use_gpu:
        room = resources.gpus // workers
    else:
        room = resources.cpus // (workers * stage.job.cluster.cpus_per_worker)
    return Plan(sweep, stage, ready, resources, max(1, int(room)))


def carry_out(plan: Plan, folder: RunFolder, watcher: Callable[[TrialResult], None]) -> Summary:
    """All trials, or those that are left.

    Raises:
        KeyboardInterrupt: SIGINT or SIGTERM came; `carry_out` goes on from there.
    """
    from ltm_platform.launch.driver import sigterm_is_interrupt
    from ltm_platform.tuning.sweep import run_stage

    stage = plan.stage
    with (
        sigterm_is_interrupt(),
        tracking.tracked_sweep(stage.job, folder.name, folder.path) as tracked,
    ):
        tracked.log_files([folder.path / SWEEP_FILE], "sweep")
        settings = TrialSettings(
            job=stage.job,
            folder=folder.path / "trials",
            parent=tracked.run_id,
            resources=plan.resources,
        )
        with embedded_ray(plan.resources):
            trials = run_stage(
                stage,
                settings,
                folder.path / "tune",
                tracked,
                at_once=plan.at_once,
                use_gpu=plan.ready.use_gpu,
                watcher=watcher,
            )
        summary = summarize(stage, trials, folder.path)
        files = [folder.path / name for name in (BEST_FILE, PICTURE_FILE, TABLE_FILE)]
        tracked.log_files([file for file in files if file.exists()], "sweep")
        if summary.best:
            tracked.tag("ltm.best_trial", summary.best.name)
        tracked.tag("ltm.trials", str(len(trials)))
        tracked.tag("ltm.trials_failed", str(sum(map(len, summary.failures.values()))))
    return summary


def summarize(stage: Stage, trials: Sequence[TrialResult], folder: Path) -> Summary:
    """Write the best job, the table and the picture into ``folder``."""
    trials = sorted(trials, key=lambda trial: trial.name)
    chosen = best(trials, stage.objectives)
    if chosen:
        job = trial_job(stage.job, chosen.values)
        note = f"# The best of {len(trials)} trials of {folder.name}: {chosen.name}\n"
        (folder / BEST_FILE).write_text(note + job.replace("name", stage.job.name).to_yaml())
    _write_table(folder / TABLE_FILE, stage, trials)
    if any(trial.state == "finished" for trial in trials):
        draw_fronts(trials, ACCURACY, COSTS, folder / PICTURE_FILE)
    return Summary(
        trials=tuple(trials),
        best=chosen,
        fronts={cost.metric: front(trials, (ACCURACY, cost)) for cost in COSTS},
        importance=importance(trials, stage.params, stage.objectives[0]),
        failures=failures(trials),
        folder=folder,
    )


def _write_table(path: Path, stage: Stage, trials: Sequence[TrialResult]) -> None:
    fields = [param.field for param in stage.params]
    metrics = sorted({key for trial in trials for key in trial.metrics})
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", "state", "epochs", *fields, *metrics, "error"])
        for trial in trials:
            values = [trial.values.get(field) for field in fields]
            measured = [trial.metrics.get(key) for key in metrics]
            row = [trial.name, trial.state, trial.epoch, *values, *measured, trial.error]
            writer.writerow(row)
