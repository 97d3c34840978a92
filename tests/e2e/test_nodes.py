"""Several nodes, on this machine: one is taken away or lost, the run goes on with what is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from .conftest import ROOT, TIMEOUT_S

PROGRAM = Path(__file__).with_name("nodes.py")


def test_a_run_outlives_its_nodes_and_takes_new_ones(
    environment: dict[str, str], tiny_job: Path, tmp_path: Path
) -> None:
    job = tiny_job.with_name("long.yaml")
    job.write_text(
        f"extends: {tiny_job}\nrecipe:\n  epochs: 500\ncheckpoint:\n  every_steps: null\n"
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
    told = map(json.loads, seen.read_text().splitlines())
    first, saved, fewer, again, *_, least, ended = told
    assert (first["workers"], first["steps_done"]) == (2, 0)
    assert saved == "saved within an epoch"
    assert fewer["workers"] == 1
    assert fewer["steps_done"] > 0
    assert again["workers"] == 2
    assert again["steps_done"] >= fewer["steps_done"]
    assert least["workers"] == 1
    assert least["steps_done"] > again["steps_done"], "it did not go on from a checkpoint"
    assert ended == "ended"
