"""The owner of a run: opens it, trains it on Ray's workers and closes it with its true status."""

from __future__ import annotations

import os
import platform
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, assert_never

import ray
import ray.train
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from tenacity import RetryCallState, Retrying, retry_if_exception

from ltm_platform.compat.ray_trainer import LeanTrainer
from ltm_platform.errors import RunError
from ltm_platform.events import (
    ControllerStarted,
    Decided,
    EpochEnded,
    Event,
    EventQueue,
    Failed,
    GaveUp,
    ImagesLeftOut,
    Listener,
    Measured,
    Profiled,
    Progress,
    Started,
    StoppedOnRequest,
    Waiting,
    listening,
)
from ltm_platform.ray_cluster.embedded import end_workers
from ltm_platform.ray_cluster.failures import (
    ControllerLostError,
    RayLostError,
    RetryPolicy,
    as_run_error,
)
from ltm_platform.ray_cluster.jobs_api import Request
from ltm_platform.ray_cluster.machine.services import Services, WatchedQueue
from ltm_platform.ray_cluster.wait_callback import WaitCallback
from ltm_platform.runs.network_artifacts import (
    CheckpointedModel,
    log_checkpoints,
    log_results,
)
from ltm_platform.runs.notification import notifying
from ltm_platform.runs.reservation import RecordReservation, forget, free
from ltm_platform.storage import locations
from ltm_platform.storage.checkpoints import BEST_METRIC, StoredCheckpoint, best, stored
from ltm_platform.storage.resume_plan import plan_to_resume
from ltm_platform.storage.room import full_disk_ends_run
from ltm_platform.storage.run_folder import RunIdentity
from ltm_platform.tracking import TrackedRun, tracked_run
from ltm_platform.tracking.runs import CLUSTER_TAG, HOST_TAG, RUN_FOLDER_TAG, SUBMISSION_TAG

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import ltm
    from ltm_platform.checks import CheckedJob
    from ltm_platform.job import JobSpec
    from ltm_platform.storage.run_folder import Resume, RunFolder
    from ltm_platform.training.worker import WorkerConfig


START_ATTEMPTS = 3
"""Attempts to start the workers of a job that was forced on a cluster without room for it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished run."""

    run_id: str
    """The id of its MLflow run."""
    metrics: dict[str, float]
    best: StoredCheckpoint
    last: StoredCheckpoint


def drive(
    checked: CheckedJob,
    folder: RunFolder,
    listener: Listener,
    *,
    resume: Resume | None = None,
    ray_stays: bool = False,
    renew: Callable[[], None] | None = None,
) -> Outcome:
    """Train a checked job to its end. Ray must be running.

    ``ray_stays``: it keeps running when this raises, so that the workers have to be stopped.
    ``renew`` ends what is left of a Ray that broke and starts another; None where Ray is not ours.

    Raises:
        KeyboardInterrupt: SIGINT or SIGTERM came; the run is closed as KILLED.
        RunError: a rank failed; the run is closed as FAILED.
    """
    with (
        sigterm_is_interrupt(),
        notifying(checked.job, folder) as notifier,
        tracked_run(
            checked.job,
            folder.name,
            folder.path,
            run_id=resume.run_id if resume else None,
            repeats=not (resume and resume.alters_training),
            plan=checked.chosen_plan,
        ) as run,
        full_disk_ends_run(folder.path),
    ):
        where = location_tags() | {RUN_FOLDER_TAG: str(folder.path)}
        for key, value in where.items():
            run.tag(key, value)
        for key, change in (resume.changes if resume else {}).items():
            run.tag(f"ltm.changed.{key}", change)
        _train(checked, folder, run, (listener, notifier.heard), renew=renew, abort=ray_stays)
        found = stored(folder)
        chosen = best(found)
        assert chosen, "training ended without a checkpoint"
        log_results(run, CheckpointedModel(checked.job, checked.dataset, chosen))
        notifier.metrics = run.metrics
        return Outcome(run.run_id, run.metrics, chosen, found[-1])


def _train(
    checked: CheckedJob,
    folder: RunFolder,
    run: TrackedRun,
    listeners: Sequence[Listener],
    *,
    renew: Callable[[], None] | None,
    abort: bool,
) -> None:
    """Train on workers. When Ray itself or its controller ends, training goes on from the last
    checkpoint; that counts among the failures that the job allows.
    """
    allowed = checked.job.cluster.max_failures
    failures: list[Failed] = []

    def note(event: Event) -> None:
        if isinstance(event, Failed):
            failures.append(event)

    def may_help(error: BaseException) -> bool:
        mendable = isinstance(error, ControllerLostError) or (
            isinstance(error, RayLostError) and renew
        )
        return bool(mendable) and len(failures) < allowed

    def prepare(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        for hear in (note, *listeners):
            hear(Failed(str(error)))
        if isinstance(error, RayLostError) and renew:
            renew()
        # A kill may have cut off a checkpoint, or Ray's record of them.
        plan_to_resume(folder, None, run.run_id, checked.job.checkpoint.keep).carry_out()

    def attempt() -> None:
        events, services = event_queue(), Services.here(end_workers)
        with recording(checked, folder, run, WatchedQueue(events, services), *listeners, note):
            left = allowed - len(failures)
            fit(
                checked,
                folder,
                run.run_id,
                events,
                services=services,
                max_failures=left,
                abort=abort,
            )

    Retrying(retry=retry_if_exception(may_help), before_sleep=prepare, reraise=True)(attempt)


@contextmanager
def recording(
    checked: CheckedJob,
    folder: RunFolder,
    run: TrackedRun,
    events: EventQueue,
    *listeners: Listener,
) -> Iterator[None]:
    """Record in ``run`` events and checkpoints of the block's training; listeners get events, too.

    Raises:
        RunError: a rank gave up.
        KeyboardInterrupt: training saved and ended because a stop was requested.
    """
    folder.belongs_to(run.run_id)
    run.log_metrics(model_metrics(checked), step=0, time_ms=int(time.time() * 1000))
    reasons: list[str] = []

    stopped: list[Event] = []

    def note(event: Event) -> None:
        match event:
            case GaveUp():
                reasons.append(event.reason)
            case StoppedOnRequest():
                stopped.append(event)
            case Started() | Waiting() | Progress() | EpochEnded() | Measured() | Decided():
                pass
            case ControllerStarted() | Failed() | ImagesLeftOut() | Profiled():
                pass
            case _:
                assert_never(event)

    try:
        with listening(events, run, *listeners, note):
            yield
        if reasons:
            raise RunError(f"{reasons[0]}; a lower recipe.lr or recipe.clip_grad may help")
        if stopped:
            raise KeyboardInterrupt
    finally:
        log_checkpoints(run, folder.name, stored(folder), checked.dataset.classes)


def fit(
    checked: CheckedJob,
    folder: RunFolder,
    run_id: str,
    events: EventQueue,
    callbacks: Sequence[Any] = (),
    *,
    services: Services | None = None,
    max_failures: int | None = None,
    abort: bool = False,
) -> None:
    """Train on Ray Train's workers. ``callbacks`` are Ray Train's, and run in its controller.

    ``max_failures``: of the workers, if not as many as the job allows.

    Raises:
        KeyboardInterrupt: SIGINT came; the workers end with this process or with its Ray or, with
            ``abort``, before this is raised.
        RunError: a rank failed, more often than the job allows.
        ControllerLostError, RayLostError: a part of Ray has ended.
    """
    from ltm_platform.training.worker import train_worker

    free(folder.path)
    job = checked.job
    services = services or Services.here()
    failure_config = ray.train.FailureConfig(
        max_failures=job.cluster.max_failures if max_failures is None else max_failures,
        max_preemption_failures=job.cluster.max_preemptions,
        # Ray would try for ever to start workers that there is no room for.
        controller_failure_limit=START_ATTEMPTS if checked.problems else -1,
    )
    scaling = scaling_config(checked)
    per_worker = scaling.resources_per_worker or {}
    waiting = WaitCallback(events, scaling.min_workers, per_worker, scaling.accelerator_type)
    trainer = LeanTrainer(
        train_worker,
        train_loop_config=dict(worker_config(checked, folder, run_id, events)),
        scaling_config=scaling,
        run_config=ray.train.RunConfig(
            name=folder.name,
            storage_path=folder.storage_root,
            failure_config=failure_config,
            checkpoint_config=kept_checkpoints(job),
            callbacks=[*callbacks, waiting, RecordReservation(folder.path)],
            # What it says of every report and every start, our own lines do.
            logging_config=ray.train.LoggingConfig(log_level="WARNING"),
        ),
        check=services.check,
        policy=RetryPolicy(failure_config, events),
    )
    try:
        with as_run_error():
            trainer.fit()
    except ControllerLostError:
        services.check_now()
        raise
    except KeyboardInterrupt:
        if abort:
            trainer.abort()
        raise
    forget(folder.path)


def scaling_config(checked: CheckedJob) -> ray.train.ScalingConfig:
    """How many workers, and what each of them has."""
    cluster = checked.job.cluster
    workers = cluster.workers if isinstance(cluster.workers, tuple) else checked.batch.workers
    per_worker = {"GPU": cluster.gpus_per_worker} if checked.use_gpu else {}
    per_worker["CPU"] = cluster.cpus_per_worker
    return ray.train.ScalingConfig(
        num_workers=workers,
        elastic_resize_monitor_interval_s=cluster.resize_interval_s,
        use_gpu=checked.use_gpu,
        resources_per_worker=per_worker,
        accelerator_type=cluster.accelerator,
    )


def worker_config(
    checked: CheckedJob, folder: RunFolder, run_id: str, events: EventQueue
) -> WorkerConfig:
    """The arguments of `train_worker`."""
    from ltm_platform.training.worker import WorkerConfig

    return WorkerConfig(
        job=checked.job.to_dict(),
        cache=str(locations.cache()),
        events=events,
        run=RunIdentity(folder.name, run_id),
    )


def kept_checkpoints(job: JobSpec) -> ray.train.CheckpointConfig:
    """The best few, and besides them the last."""
    return ray.train.CheckpointConfig(
        num_to_keep=job.checkpoint.keep,
        checkpoint_score_attribute=BEST_METRIC,
        checkpoint_score_order="max",
    )


def location_tags() -> dict[str, str]:
    """MLflow tags that say where a run of this process is."""
    request = Request.here()
    return {
        HOST_TAG: platform.node(),
        CLUSTER_TAG: request.cluster if request else "",
        SUBMISSION_TAG: request.submission if request else "",
    }


def event_queue() -> Queue:
    """A queue from the workers to this process; on its node, so that it survives other nodes."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})


def model_metrics(checked: CheckedJob) -> dict[str, float]:
    """What is known of a network before it is trained."""
    return network_metrics(checked.cost, checked.base_cost, checked.kept_tokens)


def network_metrics(cost: ltm.Count, base: ltm.Count, kept: float | None) -> dict[str, float]:
    """The cost of a network, of the same without merging, and the tokens that it keeps."""
    costs = {
        "model/gmacs": cost.gmacs,
        "model/gmacs_no_attention_matmul": cost.gmacs_no_attention_matmul,
        "model/gmacs_base": base.gmacs,
        "model/params_m": cost.params_m,
        "model/params_m_base": base.params_m,
    }
    return costs if kept is None else costs | {"model/kept_tokens": kept}


@contextmanager
def sigterm_is_interrupt() -> Iterator[None]:
    """In the block SIGTERM acts as Ctrl-C does. Only in the main thread, which gets signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupted(*_: object) -> None:
        if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as a shell's background jobs do
            signal.signal(signal.SIGINT, signal.default_int_handler)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGTERM, interrupted)
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, interrupt)
