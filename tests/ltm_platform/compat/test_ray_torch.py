"""Ray Train's process group: what of it meets in a file."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from ray.train.torch import TorchConfig
from ray.train.torch.config import _setup_torch_process_group, _TorchBackend

from ltm_platform.compat.ray_core import LOOPBACK_SETTINGS, is_on_loopback
from ltm_platform.compat.ray_torch import LocalTorchConfig, _MeetingInFile

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


class Group:
    """What is asked of two workers."""

    def __len__(self) -> int:
        return 2

    def execute_single(self, rank: int, function: Any) -> tuple[int, Any]:
        return rank, function

    def execute_single_async(self, rank: int, function: Any, **options: Any) -> Any:
        return rank, function, options


def test_every_rank_is_told_where_to_meet_by_the_argument_that_ours_replaces() -> None:
    started = inspect.getsource(_TorchBackend.on_start)
    assert "worker_group.execute_single_async(" in started
    assert "init_method=url" in started
    assert "init_method" in inspect.signature(_setup_torch_process_group).parameters


def test_they_meet_in_the_file_and_all_else_is_as_it_was(tmp_path: Path) -> None:
    group = _MeetingInFile(Group(), tmp_path / "a store")  # type: ignore[arg-type]
    assert len(group) == 2
    assert group.execute_single(0, len) == (0, len)
    rank, function, options = group.execute_single_async(1, len, init_method="env://", backend="x")
    assert (rank, function, options["backend"]) == (1, len, "x")
    assert options["init_method"] == f"file://{tmp_path}/a store"


def test_only_a_ray_on_loopback_meets_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert issubclass(LocalTorchConfig, TorchConfig)
    assert issubclass(LocalTorchConfig().backend_cls, _TorchBackend)
    for name, value in LOOPBACK_SETTINGS.items():
        monkeypatch.setenv(name, value)
    assert is_on_loopback()
    monkeypatch.delenv(next(iter(LOOPBACK_SETTINGS)))
    assert not is_on_loopback()
