"""A Ray that does not start in time is started again; the real one: test_session.py."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING

import pytest
import ray

from ltm_platform.compat.ray_core import START_ATTEMPTS
from ltm_platform.errors import UserError
from ltm_platform.ray_cluster import embedded
from ltm_platform.ray_cluster.embedded import EmbeddedRay
from ltm_platform.ray_cluster.resources import Resources

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def too_late(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[subprocess.Popen[bytes]]]:
    """Lets so many starts of Ray come too late; the processes that they leave."""
    for key, value in embedded.EMBEDDED_SETTINGS.items():
        monkeypatch.setenv(key, value)  # else the start sets them for all tests that follow

    def too_late(times: int) -> list[subprocess.Popen[bytes]]:
        left: list[subprocess.Popen[bytes]] = []

        def init(**_: object) -> None:
            if len(left) == times:
                raise KeyError("the next is another matter")
            sleeping = [sys.executable, "-c", "import time; time.sleep(600)"]
            left.append(subprocess.Popen(sleeping))
            raise Exception("The current node timed out during startup.")

        monkeypatch.setattr(ray, "init", init)
        return left

    return too_late


def test_a_start_that_comes_too_late_leaves_nothing_and_is_tried_again(
    too_late: Callable[[int], list[subprocess.Popen[bytes]]],
) -> None:
    left = too_late(2)
    with pytest.raises(KeyError):
        EmbeddedRay(Resources(cpus=1, gpus=0)).start()
    assert [process.wait(30) for process in left] == [-signal.SIGKILL] * 2


def test_a_machine_on_which_it_never_starts_is_a_sentence(
    too_late: Callable[[int], list[subprocess.Popen[bytes]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "START_S", 0)
    left = too_late(START_ATTEMPTS)
    with pytest.raises(UserError, match=r"Ray did not start, 3 times and .* 0 seconds"):
        EmbeddedRay(Resources(cpus=1, gpus=0)).start()
    assert [process.wait(30) for process in left] == [-signal.SIGKILL] * START_ATTEMPTS


def test_nobody_is_warned_of_the_processes_that_ray_drops(
    too_late: Callable[[int], list[subprocess.Popen[bytes]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    too_late(0)  # Ray's settings
    started: list[int] = []

    def init(**_: object) -> None:
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        started.append(process.pid)
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(embedded, "START_S", 0)
    with pytest.raises(UserError, match="Ray did not start"), warnings.catch_warnings():
        warnings.simplefilter("error")
        EmbeddedRay(Resources(cpus=1, gpus=0)).start()
    assert len(started) == START_ATTEMPTS
    gc.collect()  # a warning would fail this test
