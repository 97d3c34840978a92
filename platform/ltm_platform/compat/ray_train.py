"""Ray Train: where it stores, how it keeps checkpoints, and what its controller does.

Its public callback, `ray.train.UserCallback`, is called for reports and exceptions alone.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import ray.train
from ray.train.v2._internal.execution import context
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import CheckpointManager
from ray.train.v2._internal.execution.controller.state import InitializingState, ReschedulingState
from ray.train.v2._internal.execution.storage import StorageContext
from ray.train.v2._internal.execution.training_report import _TrainingReport

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyarrow.fs import FileSystem
    from ray.train import Checkpoint, CheckpointConfig
    from ray.train.v2._internal.execution.controller.state import TrainControllerState


def run_storage() -> tuple[FileSystem, str]:
    """On a worker: the file system that the run is stored on, and the path of its folder there.

    ``get_storage`` may change without notice, as Ray's documentation says; there is no other way.
    """
    stored = ray.train.get_context().get_storage()
    return stored.storage_filesystem, stored.experiment_fs_path


def report_quietly() -> None:
    """On a worker: have Ray Train log no report. Its logger for that is named after a file, where
    no `ray.train.LoggingConfig` reaches it."""
    context.logger.setLevel(logging.WARNING)


class CheckpointKeeper:
    """Keeps, drops and records the checkpoints of a run as Ray Train does, without a worker of it.

    Ray Train has its manager of checkpoints in the controller alone, which starts workers.
    """

    def __init__(self, folder: Path, kept: CheckpointConfig) -> None:
        """``folder`` is the run's own; what is recorded there already is known."""
        self._manager = _Manager(kept, StorageContext(str(folder.parent), folder.name))

    @property
    def latest(self) -> Path | None:
        """The folder of the last checkpoint."""
        result = self._manager.latest_checkpoint_result
        return Path(result.checkpoint.path) if result else None

    def register(self, checkpoint: Checkpoint, metrics: dict[str, float]) -> None:
        """Record a checkpoint that was written into a folder of the run's, and drop the worst."""
        self._manager.register_checkpoint(_TrainingReport(checkpoint, metrics, validation=False))


def checkpoint_record(
    root: str, run: str, found: Sequence[tuple[str, dict[str, float]]], score: str
) -> bytes:
    """Ray Train's record of these checkpoints, each a folder's name with its metrics, the oldest
    first; it resumes from the last.

    Args:
        root: folder or address below which the run is stored in the folder ``run``.
        score: the metric of which the highest is best.
    """
    kept = ray.train.CheckpointConfig(
        checkpoint_score_attribute=score, checkpoint_score_order="max"
    )
    storage = StorageContext(root, run, read_only=True)
    recorder = _Recorder(kept, storage)
    for name, metrics in found:
        path = storage.build_checkpoint_path_from_name(name)
        checkpoint = ray.train.Checkpoint(path, storage.storage_filesystem)
        recorder.register_checkpoint(_TrainingReport(checkpoint, metrics, validation=False))
    return recorder.record()


class _Manager(CheckpointManager):
    def _notify(self) -> None:
        """Nothing waits for a checkpoint here; Ray's would want a running event loop."""


class _Recorder(_Manager):
    """Knows nothing of what is stored, and stores nothing."""

    def _maybe_load_state_from_storage(self) -> None:
        pass

    def _write_state_to_storage(self) -> None:
        pass

    def record(self) -> bytes:
        state: str = self._save_state()
        return state.encode()


class PlacementCallback(ControllerCallback):
    """Called in Ray Train's controller when it wants workers, and when they did not come."""

    def on_workers_wanted(self) -> None:
        raise NotImplementedError

    def after_controller_state_update(
        self, previous_state: TrainControllerState, current_state: TrainControllerState
    ) -> None:
        asks = isinstance(previous_state, InitializingState)
        if asks or isinstance(current_state, ReschedulingState):
            self.on_workers_wanted()


class StopCallback(ControllerCallback, WorkerGroupCallback):
    """Called in Ray Train's controller with what it takes to stop a run from outside.

    Ray Train stops a run on SIGINT of its driver's main thread alone.
    """

    def on_controller(self, handle: Any) -> None:
        """The actor that starts workers, and again after a fault; `abort` takes it."""
        raise NotImplementedError

    def on_reservation(self, identity: str) -> None:
        """Workers have started on this placement group; ``remove_reservation`` takes its id."""
        raise NotImplementedError

    def after_controller_start(self, train_run_context: Any) -> None:  # noqa: ARG002
        self.on_controller(ray.get_runtime_context().current_actor)

    def after_worker_group_start(self, worker_group: Any) -> None:
        group = worker_group.get_worker_group_state().placement_group_handle.placement_group
        self.on_reservation(group.id.hex())


def abort(controller: Any, timeout_s: float) -> None:
    """End a run at once, its workers and its controller, which cannot answer any more."""
    with suppress(ray.exceptions.RayError):
        ray.get(controller.abort.remote(), timeout=timeout_s)
