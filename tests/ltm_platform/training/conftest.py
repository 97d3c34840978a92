"""Real ranks: processes with gloo and DeepSpeed, started once for all tests here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

TIMEOUT_S = 600

Seen = dict[str, Any]


@pytest.fixture(scope="session")
def ranks(
    tmp_path_factory: pytest.TempPathFactory,
    ltm_home: Path,  # noqa: ARG001 - the environment
) -> Mapping[int, list[Seen]]:
    """What ``ranks.py`` saw, by the number of workers and the rank."""
    folder = tmp_path_factory.mktemp("ranks")
    run_program("ranks.py", folder)
    return {
        workers: [torch.load(folder / f"{workers}-{rank}" / "seen.pt") for rank in range(workers)]
        for workers in (1, 2, 4)
    }


def run_program(name: str, folder: Path) -> None:
    """A program beside this file that starts ranks and leaves in ``folder`` what they saw."""
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name(name), folder],
        # the test's own search path, so that it holds for a checkout and for an installed package
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
