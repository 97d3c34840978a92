"""A process without progress ends itself, with the stacks of its threads."""

from __future__ import annotations

import subprocess
import sys

import pytest

HANGS = """
import threading
from ltm_platform.training.watchdog import Watchdog
dog = Watchdog(timeout_s=600)
for timeout_s in dog.watched([600, 0.2]):
    dog = Watchdog(timeout_s)
def hangs():
    threading.Event().wait()
hangs()
"""
CLOSED = """
import threading
from ltm_platform.training.watchdog import Watchdog
Watchdog(timeout_s=0.1).close()
threading.Event().wait(0.5)
print("went on")
"""


NEVER_BUILT = """
import threading
from ltm_platform.job import JobSpec
from ltm_platform.training.trainer import Trainer
job = JobSpec.load("quickstart", ["cluster.hang_timeout_s=1"])
try:
    Trainer(job, None, cache=None, send=print)  # which is no folder
except TypeError:
    threading.Event().wait(1.5)
    print("went on")
"""


def run(program: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_who_hangs_ends_and_shows_where() -> None:
    done = run(HANGS)
    assert done.returncode != 0
    assert "Timeout" in done.stderr
    assert "in hangs" in done.stderr


def test_who_has_ended_its_work_is_left_alone() -> None:
    assert run(CLOSED).stdout == "went on\n"


@pytest.mark.slow
def test_a_trainer_that_cannot_be_built_does_not_end_the_process_later() -> None:
    assert run(NEVER_BUILT).stdout == "went on\n"
