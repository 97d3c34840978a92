"""How Ray Train's workers find each other for torch, without a port that others can reach.

Torch keeps the addresses of a process group in a store that rank 0 serves on all interfaces, and
takes no other address for it. Where no other machine takes part, a file does the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

from ltm_platform.compat.ray_core import is_on_loopback, session_folder

if TYPE_CHECKING:
    from pathlib import Path

    from ray.train._internal.base_worker_group import BaseWorkerGroup


@dataclass
class LocalTorchConfig(TorchConfig):
    """Ray Train's own, but for the store of a Ray that listens on 127.0.0.1 alone."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _LocalBackend


class _LocalBackend(_TorchBackend):
    def on_start(self, worker_group: BaseWorkerGroup, backend_config: TorchConfig) -> None:
        if is_on_loopback():
            # It goes with the other files of this Ray.
            worker_group = _MeetingInFile(worker_group, session_folder() / f"store-{uuid4().hex}")
        super().on_start(worker_group, backend_config)


class _MeetingInFile:
    """A worker group whose processes are told to meet in ``file``."""

    def __init__(self, group: BaseWorkerGroup, file: Path) -> None:
        self._group, self._file = group, file

    def __len__(self) -> int:
        return len(self._group)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._group, name)

    def execute_single_async(self, rank: int, function: Any, **options: Any) -> Any:
        if "init_method" in options:
            options["init_method"] = f"file://{self._file}"  # torch unquotes nothing
        return self._group.execute_single_async(rank, function, **options)
