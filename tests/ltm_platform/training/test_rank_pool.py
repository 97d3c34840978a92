"""One scenario that fails, ends or hangs on a rank fails alone."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest
import torch
import torch.distributed as dist

from .rank_pool import RankPool, ScenarioError

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankPool]:
    pool = RankPool(tmp_path_factory.mktemp("pool"))
    yield pool
    pool.close()


def add(first: int) -> int:
    total = torch.tensor(first + dist.get_rank())
    dist.all_reduce(total)
    return int(total)


def fail_on_rank_1() -> None:
    if dist.get_rank() == 1:
        raise ValueError("broken here")
    dist.barrier()  # which never ends


def die_on_rank_1() -> None:
    if dist.get_rank() == 1:
        os._exit(3)
    dist.barrier()


def hang() -> None:
    threading.Event().wait()


def process() -> int:
    return os.getpid()


@pytest.mark.parametrize("workers", [1, 2])
def test_ranks_of_a_group_meet(pool: RankPool, workers: int) -> None:
    assert pool.run(workers, add, 5) == [5 * workers + workers * (workers - 1) // 2] * workers


def test_a_group_stays_alive_and_an_answer_is_kept(pool: RankPool) -> None:
    ranks = pool.run(2, process)
    assert len(set(ranks)) == 2
    pool.run(2, add, 7)
    assert pool.run(2, process) == ranks


def test_an_error_names_rank_and_line_and_the_next_scenario_runs(pool: RankPool) -> None:
    for _ in range(2):  # kept, as an answer is
        with pytest.raises(ScenarioError, match="broken here") as error:
            pool.run(2, fail_on_rank_1)
        assert "rank 1: Traceback" in str(error.value)
        assert "in fail_on_rank_1" in str(error.value)
    assert pool.run(2, add, 1) == [3, 3]


def test_a_rank_that_dies_is_replaced(pool: RankPool) -> None:
    with pytest.raises(ScenarioError, match="rank 1: its process ended"):
        pool.run(2, die_on_rank_1)
    assert pool.run(2, add, 2) == [5, 5]


@pytest.mark.slow
def test_ranks_that_hang_are_replaced(pool: RankPool) -> None:
    with pytest.raises(ScenarioError, match=r"rank 0: no answer within 0\.2 s"):
        pool.run(2, hang, timeout_s=0.2)
    assert pool.run(2, add, 3) == [7, 7]
