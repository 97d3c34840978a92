"""One trial: a whole job, prepared, trained and recorded like any other."""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from ltm_platform import checks, tracking
from ltm_platform.errors import UserError
from ltm_platform.runs.driver import (
    event_queue,
    kept_checkpoints,
    model_metrics,
    recording,
    worker_config,
)
from ltm_platform.storage import permissions
from ltm_platform.storage.checkpoints import best, stored
from ltm_platform.storage.resume_plan import plan_to_resume
from ltm_platform.storage.run_folder import RunFolder
from ltm_platform.tuning.keep_ratios import with_keep_ratios
from ltm_platform.tuning.params import with_values
from ltm_platform.tuning.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from ltm_platform.checks import CheckedJob
    from ltm_platform.events import EpochEnded, EventQueue
    from ltm_platform.job import JobSpec
    from ltm_platform.ray_cluster.resources import Resources
    from ltm_platform.tracking import TrackedRun

Metrics = dict[str, float]

_log = logging.getLogger(__name__)

EPOCH = "epoch"
"""Key of a report: epochs that are done."""
FINISHED = "finished"
"""Key of the last report of a trial that was not stopped early."""
STOPPED = "stopped"
"""Key of the report of a resumed trial that had been stopped early before."""


@dataclass(frozen=True, slots=True)
class TrialSettings:
    """What all trials of a stage share."""

    job: JobSpec
    folder: Path
    """Every trial has a folder in it, named as itself."""
    parent: str
    """The sweep's MLflow run."""
    resources: Resources


def trial_job(job: JobSpec, values: Mapping[str, Any]) -> JobSpec:
    """The job of a trial with these values.

    Raises:
        UserError: they exclude each other.
    """
    return with_keep_ratios(with_values(job, values, "the trial's values"), values)


def train(
    settings: TrialSettings, name: str, values: Mapping[str, Any]
) -> Generator[Metrics, None, None]:
    """Train a trial from where it stopped, or from the start; its metrics after every epoch.

    Closing the iterator ends training there; the trial's MLflow run is then left to the sweep.

    Raises:
        UserError: the job with these values cannot be trained.
        RunError: training gave up.
    """
    folder = RunFolder(settings.folder / name)
    permissions.make_folder(folder.path)
    experiment = settings.job.tracking.experiment
    uri = tracking.tracking_uri(settings.job.tracking.uri)
    run_id = tracking.run_of_folder(uri, experiment, folder.path)
    if run_id and (ended := tracking.how_it_ended(uri, run_id)):
        # The sweep was killed before it recorded the end.
        if ended.stopped_after is not None:
            yield ended.metrics | {EPOCH: ended.stopped_after, STOPPED: 1}
        else:
            yield ended.metrics | {EPOCH: settings.job.recipe.epochs, FINISHED: 1}
        return

    def tracked(
        job: JobSpec, plan: Mapping[str, Any] | None = None
    ) -> AbstractContextManager[TrackedRun]:
        return tracking.tracked_run(
            job, name, folder.path, run_id=run_id, parent=settings.parent, plan=plan
        )

    job = settings.job
    try:
        job = trial_job(settings.job, values)
        checked = checks.check(job, settings.resources)
    except UserError:
        with tracked(job):
            raise
    job = checked.job
    folder.write_job(job.to_yaml())
    plan = plan_to_resume(folder, None, run_id, job.checkpoint.keep)
    for notice in plan.notices:
        _log.warning("%s", notice)
    plan.carry_out()
    yield model_metrics(checked) | {EPOCH: 0}
    alone = checked.batch.workers == 1 and not isinstance(job.cluster.workers, tuple)
    with tracked(job, checked.chosen_plan) as run:
        workers = Workers()
        events: EventQueue = SimpleQueue() if alone else event_queue()
        steps = (
            _alone(checked, folder, run.run_id, events)
            if alone
            else workers.epochs(checked, folder, run.run_id, events)
        )
        done = 0
        try:
            with recording(checked, folder, run, events, workers), closing(steps):
                for epoch in steps:
                    done = epoch.epoch + 1
                    if done < job.recipe.epochs:  # who begins the last one may end it
                        yield model_metrics(checked) | epoch.metrics | {EPOCH: done}
        except GeneratorExit:
            _log_pictures(run, checked, folder)
            raise
        _log_pictures(run, checked, folder)
        metrics = dict(run.metrics)
    yield metrics | {EPOCH: done or job.recipe.epochs, FINISHED: 1}


def _log_pictures(run: TrackedRun, checked: CheckedJob, folder: RunFolder) -> None:
    """Log pictures of the trial's best network, if one was validated."""
    from ltm_platform.runs.network_artifacts import CheckpointedModel, log_pictures

    if chosen := best(stored(folder)):
        log_pictures(run, CheckpointedModel(checked.job, checked.dataset, chosen))


def _alone(
    checked: CheckedJob, folder: RunFolder, run_id: str, events: EventQueue
) -> Generator[EpochEnded, None, None]:
    """Train in this process, as the only rank."""
    from ltm_platform.training.worker import train_rank
    from ltm_platform.training.worker_context import SingleProcess

    config = worker_config(checked, folder, run_id, events)
    context = SingleProcess(folder.path, kept_checkpoints(checked.job), config["run"])
    yield from train_rank(config, context)
