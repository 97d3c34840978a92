"""A slice of the campaign: runs that are killed, damaged files, damaged jobs."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from benchmarks.campaign.report import Report

from .conftest import ROOT, TIMEOUT_S

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

KILLS, DAMAGE, JOBS = 12, 150, 60
SEED = 20


def test_a_slice_of_the_campaign_finds_nothing(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "campaign.py"), "--seed", str(SEED)]
    command += ["--kills", str(KILLS), "--ray", "0", "--damage", str(DAMAGE), "--jobs", str(JOBS)]
    command += ["--report", str(tmp_path / "report.json"), "--work", str(tmp_path / "work")]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert (tmp_path / "report.json").exists(), done.stdout + done.stderr
    report = Report.load(tmp_path / "report.json")
    assert not report.faults, [(fault.sentence, fault.story) for fault in report.faults]
    assert done.returncode == 0, done.stdout + done.stderr
    assert report.done("kill") >= KILLS
    assert report.done("damage") == DAMAGE
    assert report.done("job") == JOBS
