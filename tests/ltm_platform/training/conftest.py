"""Ranks of training: this process as the only one, and groups of processes that stay alive."""

from __future__ import annotations

from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import pytest
import torch.distributed as dist

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ltm_platform.job import JobSpec

    from .rank_pool import RankPool
    from .small_run import FolderContext, SmallRun

    StartRun = Callable[[JobSpec, FolderContext], SmallRun]

ONLY_RANK = {
    "RANK": "0",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "1",
    "LOCAL_WORLD_SIZE": "1",
    # DeepSpeed wants to see them; nobody connects.
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


@pytest.fixture
def only_rank(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process is the only rank of a process group, which ends with the test."""
    from ltm_platform.compat.deepspeed import import_deepspeed

    import_deepspeed()
    import deepspeed.comm

    for key, value in ONLY_RANK.items():
        monkeypatch.setenv(key, value)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    deepspeed.comm.init_distributed(dist_init_required=False)
    yield
    deepspeed.comm.destroy_process_group()  # torch's, and what DeepSpeed keeps of it


@pytest.fixture
def start_run(only_rank: None) -> Iterator[StartRun]:  # noqa: ARG001 - the process group
    """Builds the Trainer of the only rank, which the test's end closes."""
    from .small_run import SmallRun

    with ExitStack() as stack:
        yield lambda job, context: stack.enter_context(closing(SmallRun(job, context)))


@pytest.fixture
def context(tmp_path: Path) -> FolderContext:
    from .small_run import FolderContext

    return FolderContext(tmp_path / "run")


@pytest.fixture(scope="session")
def ranks(
    tmp_path_factory: pytest.TempPathFactory,
    ltm_home: Path,  # noqa: ARG001 - the environment
) -> Iterator[RankPool]:
    """Groups of real ranks: processes with gloo and DeepSpeed."""
    from .rank_pool import RankPool

    with closing(RankPool(tmp_path_factory.mktemp("ranks"))) as pool:
        yield pool
