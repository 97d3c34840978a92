"""The owner of a run: opens it, trains it on Ray's workers and closes it with its true status."""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import ray.train
from ray.train.torch import TorchTrainer
from ray.util.queue import Queue

from ltm_platform import paths
from ltm_platform.errors import RunError
from ltm_platform.events import Listener, listening
from ltm_platform.tracking import TrackedRun, tracked_run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ray.train import Result

    from ltm_platform.launch.folder import RunFolder
    from ltm_platform.preflight import Ready

BEST_METRIC = "val/top1"
CHECKPOINTS_KEPT = 2
"""The best and the last; Ray keeps the last in any case."""


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """Folders of a run's best checkpoint, by validation top-1, and of its last one."""

    best: Path
    best_top1: float
    last: Path


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished run."""

    metrics: dict[str, float]
    checkpoints: Checkpoints


def drive(
    ready: Ready, folder: RunFolder, listener: Listener, *, run_id: str | None = None
) -> Outcome:
    """Train a checked job to its end. Ray must be running.

    Raises:
        KeyboardInterrupt: SIGINT or SIGTERM came; the run is closed as KILLED.
        RunError: a rank failed; the run is closed as FAILED.
    """
    with (
        _sigterm_is_interrupt(),
        tracked_run(ready.job, folder.name, folder.path, run_id=run_id) as run,
    ):
        run.log_metrics(_model_metrics(ready), step=0, time_ms=int(time.time() * 1000))
        events = Queue(actor_options={"num_cpus": 0})
        try:
            with listening(events, run, listener):
                _fit(ready, folder, events)
        finally:
            checkpoints = stored_checkpoints(folder)
            if checkpoints:
                _log_checkpoints(run, checkpoints)
        assert checkpoints, "training ended without a checkpoint"
        return Outcome(run.metrics, checkpoints)


def _fit(ready: Ready, folder: RunFolder, events: Queue) -> None:
    from ltm_platform.training.worker import WorkerConfig, train_worker

    job = ready.job
    config = WorkerConfig(job=job.to_dict(), cache=str(paths.cache()), events=events)
    trainer = TorchTrainer(
        train_worker,
        train_loop_config=dict(config),
        scaling_config=ray.train.ScalingConfig(
            num_workers=ready.batch.workers,
            use_gpu=ready.use_gpu,
            resources_per_worker={"CPU": job.cluster.cpus_per_worker},
        ),
        run_config=ray.train.RunConfig(
            name=folder.name,
            storage_path=str(folder.path.parent),
            failure_config=ray.train.FailureConfig(max_failures=job.cluster.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(
                num_to_keep=CHECKPOINTS_KEPT,
                checkpoint_score_attribute=BEST_METRIC,
                checkpoint_score_order="max",
            ),
        ),
    )
    try:
        trainer.fit()
    except SystemExit:
        # Ray ends the process once it has taken an interrupt and stopped the workers.
        raise KeyboardInterrupt from None
    except ray.train.WorkerGroupError as error:
        raise RunError(_first_cause(error.worker_failures)) from error
    except ray.train.TrainingFailedError as error:
        raise RunError(str(error)) from error


def _first_cause(failures: dict[int, Exception]) -> str:
    """The rank that broke and its exception in one line, without Ray's wrapping and traceback.

    When a rank is gone the others fail too, in the collective that they wait in.
    """

    def line(error: BaseException) -> str:
        cause = getattr(error, "cause", None) or error
        return f"{type(cause).__name__}: {cause}".splitlines()[0]

    lines = {rank: line(error) for rank, error in sorted(failures.items())}
    consequences = ("peer", "NCCL", "gloo")
    causes = [r for r, text in lines.items() if not any(word in text for word in consequences)]
    rank = (causes or list(lines))[0]
    return f"rank {rank}: {lines[rank]}"


def _model_metrics(ready: Ready) -> dict[str, float]:
    cost, base = ready.cost, ready.base_cost
    return {
        "model/gmacs": cost.gmacs,
        "model/gmacs_no_attention_matmul": cost.gmacs_no_attention_matmul,
        "model/gmacs_base": base.gmacs,
        "model/params_m": cost.params_m,
        "model/params_m_base": base.params_m,
    }


def stored_checkpoints(folder: RunFolder) -> Checkpoints | None:
    """The checkpoints that a run has stored so far, whatever became of the run."""
    try:
        result: Result = ray.train.Result.from_path(folder.path)
    except RuntimeError:  # Ray's word for a run that reported nothing
        return None
    if not result.checkpoint or not result.best_checkpoints:
        return None
    best, metrics = max(result.best_checkpoints, key=lambda kept: kept[1][BEST_METRIC])
    return Checkpoints(Path(best.path), metrics[BEST_METRIC], Path(result.checkpoint.path))


def _log_checkpoints(run: TrackedRun, checkpoints: Checkpoints) -> None:
    """Weights and job go into MLflow; the shards to resume from stay where they are, linked."""
    for kind, path in (("best", checkpoints.best), ("last", checkpoints.last)):
        files = [*sorted(path.glob("*.safetensors")), path / "job.yaml"]
        run.log_files(files, f"checkpoints/{kind}")
        run.tag(f"ltm.checkpoint_{kind}", str(path))


@contextmanager
def _sigterm_is_interrupt() -> Iterator[None]:
    """SIGTERM takes the same way out as Ctrl-C, on which Ray stops the workers in good order."""
    before = signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, interrupt)
