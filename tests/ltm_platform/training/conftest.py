"""Real ranks: every one a process with gloo and DeepSpeed, started once for all tests here."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PROGRAM = Path(__file__).with_name("ranks.py")
TIMEOUT_S = 600

Seen = dict[str, Any]


@pytest.fixture(scope="session")
def ranks(
    tmp_path_factory: pytest.TempPathFactory,
    ltm_home: Path,  # noqa: ARG001 - the environment
) -> Mapping[int, list[Seen]]:
    """What ``ranks.py`` saw, by the number of workers and the rank."""
    folders = {workers: tmp_path_factory.mktemp(f"{workers}-workers") for workers in (1, 2, 4)}
    run_ranks(
        (workers, [str(PROGRAM), str(folder)], folder / "log")
        for workers, folder in folders.items()
    )
    return {
        workers: [torch.load(folder / f"rank{rank}.pt") for rank in range(workers)]
        for workers, folder in folders.items()
    }


def run_ranks(groups: Iterable[tuple[int, list[str], Path]]) -> None:
    """Groups of ranks at once: how many, the program that each runs, and its log's beginning."""
    with ExitStack() as stack:
        processes = []
        for workers, program, log_stem in groups:
            for rank in range(workers):
                log = stack.enter_context(Path(f"{log_stem}{rank}").open("w+"))
                process = subprocess.Popen(
                    [sys.executable, *program],
                    env=os.environ | rank_environment(rank, workers),
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
                stack.callback(process.kill)
                processes.append((process, Path(log.name)))
        for process, path in processes:
            code = process.wait(TIMEOUT_S)
            assert code == 0, path.read_text()[-5000:]


def rank_environment(rank: int, workers: int) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(workers),
        # DeepSpeed wants to see them, but the ranks meet in a file.
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29500",
        "OMP_NUM_THREADS": "1",
        # the test's own search path, so that it holds for a checkout and for an installed package
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
