"""Where a rank trains: among the ranks that Ray Train started, or alone in a process."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Protocol

from ltm_platform.errors import UserError
from ltm_platform.storage.files import STOP_FILE
from ltm_platform.storage.room import written_or_explained

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    import torch
    from ray.train import Checkpoint, CheckpointConfig

    from ltm_platform.storage.path import StoragePath
    from ltm_platform.storage.run_folder import RunIdentity
    from ltm_platform.training.checkpoint import Snapshot


class WorkerContext(Protocol):
    """What a rank knows of the others, and where its checkpoints go."""

    @property
    def rank(self) -> int: ...

    @property
    def world_size(self) -> int: ...

    @property
    def local_world_size(self) -> int:
        """Ranks on this rank's machine."""

    @property
    def device(self) -> torch.device: ...

    def last_checkpoint(self) -> AbstractContextManager[Path | None]:
        """The folder of the checkpoint to go on from, for the time of the block. Collective."""

    def keep(self, taken: Snapshot, metrics: dict[str, float]) -> None:
        """Store a checkpoint that has these metrics. Collective."""

    def is_preempted(self) -> bool:
        """The cluster has announced that it takes a node away. Collective."""

    def stop_is_requested(self) -> bool:
        """Somebody wants the run to save and end. Collective."""


class RayWorker:
    """A rank that Ray Train started for ``run``."""

    def __init__(self, run: RunIdentity) -> None:
        import ray.train
        import ray.train.torch

        context = ray.train.get_context()
        self.rank: int = context.get_world_rank()
        self.world_size: int = context.get_world_size()
        self.local_world_size: int = context.get_local_world_size()
        self.device: torch.device = ray.train.torch.get_device()
        self._run = run

    @contextmanager
    def last_checkpoint(self) -> Iterator[Path | None]:
        import ray.train

        stored = ray.train.get_checkpoint()
        if stored is None:
            yield None
            return
        with stored.as_directory() as folder:  # a copy, if it lies in an object store
            yield Path(folder)

    def keep(self, taken: Snapshot, metrics: dict[str, float]) -> None:
        """Training goes on while Ray Train's thread writes into the run's storage; the checkpoint
        counts from the moment when all ranks have written."""
        import ray.train

        ray.train.report(
            metrics,
            # a stand-in: the function makes the real one
            checkpoint=ray.train.Checkpoint.from_directory(Path.cwd()),
            checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC,
            checkpoint_upload_fn=lambda _, name: _write(
                taken, storage() / name, self._run, metrics
            ),
            delete_local_checkpoint_after_upload=False,
        )

    def is_preempted(self) -> bool:
        import ray.train

        return ray.train.get_preemption_info() is not None

    def stop_is_requested(self) -> bool:
        import torch
        import torch.distributed as dist

        seen = self.rank == 0 and (storage() / STOP_FILE).exists()
        # Rank 0 alone looks: all must end at the same step, wherever they see the file.
        answer = torch.tensor(int(seen), device=self.device)
        dist.broadcast(answer, 0)
        return bool(answer)


def storage() -> StoragePath:
    """Where Ray Train stores what is kept of the run, here or in an object store."""
    from ltm_platform.compat.ray_train import run_storage
    from ltm_platform.storage.path import StoragePath

    filesystem, path = run_storage()
    return StoragePath(filesystem, path, path)


def _write(
    taken: Snapshot, target: StoragePath, run: RunIdentity, metrics: dict[str, float]
) -> Checkpoint:
    """A rank's part of a checkpoint, here or in an object store."""
    from ray.train import Checkpoint

    own = Path(target.path) if target.is_local else Path(gettempdir())
    try:
        with written_or_explained(own, taken.size):
            taken.write(target, run, metrics)
    except UserError:
        if target.is_local:  # a part of one, where room is short
            shutil.rmtree(own, ignore_errors=True)
        raise
    return Checkpoint(target.path, target.filesystem)


SINGLE_PROCESS = {
    "RANK": "0",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "1",
    "LOCAL_WORLD_SIZE": "1",
    # DeepSpeed wants to see them; nobody connects.
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


class SingleProcess:
    """The only rank, in whatever process this is; one run after another may train in it.

    Checkpoints are kept, dropped and recorded by Ray Train's own manager of them, so that the run's
    folder is like any other.
    """

    rank = 0
    world_size = 1
    local_world_size = 1

    def __init__(self, folder: Path, kept: CheckpointConfig, run: RunIdentity) -> None:
        import torch
        import torch.distributed as dist

        from ltm_platform.compat.ray_train import CheckpointKeeper

        os.environ.update(SINGLE_PROCESS)
        cuda = torch.cuda.is_available()
        self.device = torch.device("cuda", 0) if cuda else torch.device("cpu")
        if not dist.is_initialized():
            backend = "nccl" if cuda else "gloo"
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        self._folder = folder
        self._run = run
        self._keeper = CheckpointKeeper(folder, kept)

    @contextmanager
    def last_checkpoint(self) -> Iterator[Path | None]:
        yield self._keeper.latest

    def keep(self, taken: Snapshot, metrics: dict[str, float]) -> None:
        from ltm_platform.compat.ray_checkpoints import new_folder_name
        from ltm_platform.storage.path import storage_path

        target = storage_path(self._folder / new_folder_name())
        checkpoint = _write(taken, target, self._run, metrics)
        self._keeper.register(checkpoint, metrics)

    def is_preempted(self) -> bool:
        return False

    def stop_is_requested(self) -> bool:
        return (self._folder / STOP_FILE).exists()
