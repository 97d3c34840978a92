"""Several nodes, on this machine: one is lost or taken away, the run goes on with what is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .conftest import ROOT, TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAM = Path(__file__).with_name("nodes.py")


@pytest.fixture(scope="module")
def job(tiny_job: Path) -> Path:
    path = tiny_job.with_name("long.yaml")
    path.write_text(f"extends: {tiny_job}\nrecipe:\n  epochs: 500\ncheckpoint:\n  every_steps: 5\n")
    return path


def seen(environment: dict[str, str], job: Path, task: str, tmp_path: Path) -> Sequence[Any]:
    """What ``nodes.py`` saw."""
    search = os.pathsep.join([str(ROOT), str(ROOT / "platform")])
    with (tmp_path / "log").open("w+") as log:
        done = subprocess.run(
            [sys.executable, str(PROGRAM), str(job), task, task],
            env=environment | {"PYTHONPATH": search},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        log.seek(0)
        assert done.returncode == 0, log.read()[-5000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_lost_node_is_done_without_and_a_new_one_joins(
    environment: dict[str, str], job: Path, tmp_path: Path
) -> None:
    first, fewer, *_, again, ended = seen(environment, job, "lose", tmp_path)
    assert (first["workers"], first["steps_done"]) == (2, 0)
    assert fewer["workers"] == 1
    assert fewer["steps_done"] >= 10, "it did not go on from a checkpoint"
    assert again["workers"] == 2
    assert again["steps_done"] > fewer["steps_done"]
    assert ended == "ended"


def test_a_node_that_is_announced_to_go_makes_the_run_save_first(
    environment: dict[str, str], job: Path, tmp_path: Path
) -> None:
    rare = job.with_name("rare.yaml")
    rare.write_text(f"extends: {job}\ncheckpoint:\n  every_steps: null\n")
    first, saved, fewer, ended = seen(environment, rare, "drain", tmp_path)
    assert first["workers"] == 2
    assert saved == "saved within an epoch"
    assert fewer["workers"] == 1
    assert fewer["steps_done"] > 0
    assert ended == "ended"
