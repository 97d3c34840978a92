"""Groups of ranks, forked from one process: what they import is imported once."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch.multiprocessing import start_processes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


def run(program: Callable[[int, int], None], meeting: Path, *sizes: int) -> None:
    """Call ``program(rank, workers)`` in all ranks of groups of these sizes, at the same time.

    Every group has gloo, in an environment as Ray Train would give; it meets in a file.

    Raises:
        ProcessRaisedException: a rank raised; the others are ended.
    """
    places = [(rank, workers) for workers in sizes for rank in range(workers)]
    arguments = (program, str(meeting), places)
    start_processes(_one, arguments, nprocs=len(places), start_method="fork")


def _one(
    index: int,
    program: Callable[[int, int], None],
    meeting: str,
    places: Sequence[tuple[int, int]],
) -> None:
    rank, workers = places[index]
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(workers)}
    # DeepSpeed wants to see them.
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    torch.set_num_threads(1)
    method = f"file://{meeting}-{workers}"
    dist.init_process_group("gloo", init_method=method, rank=rank, world_size=workers)
    program(rank, workers)
    dist.destroy_process_group()
