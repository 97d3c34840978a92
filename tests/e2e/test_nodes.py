"""Several nodes, on this machine: one is lost or taken away, the run goes on with what is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ltm_platform.data.order import Order

from .conftest import ROOT, TIMEOUT_S

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("nodes.py")
EPOCHS, BATCH = 500, 48


def test_a_run_outlives_its_nodes_and_takes_new_ones(
    environment: dict[str, str], tiny_job: Path, tmp_path: Path
) -> None:
    job = tiny_job.with_name("long.yaml")
    job.write_text(
        f"extends: {tiny_job}\n"
        "data:\n  subset: 0.5\n"
        f"recipe:\n  epochs: {EPOCHS}\n  global_batch: {BATCH}\n"
        "checkpoint:\n  every_steps: null\n"
    )
    search = os.pathsep.join([str(ROOT), str(ROOT / "platform")])
    seen = tmp_path / "seen"
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(job), "nodes", str(seen)],
        env=environment | {"PYTHONPATH": search},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    told = [json.loads(line) for line in seen.read_text().splitlines()]
    *starts, saved, ended = told
    assert [start["workers"] for start in starts] == [4, 3, 4]
    steps = [start["steps_done"] for start in starts]
    assert steps[0] == 0
    assert steps[1] > 0
    order = Order(starts[0]["steps"] * BATCH // EPOCHS, BATCH, seed=0)
    again = order.steps(starts[1]["epochs_done"])
    assert steps[1] == again, "the epoch in which a node was lost starts again"
    assert steps[2] >= steps[1]
    assert (saved, ended) == ("saved within an epoch", "ended")
