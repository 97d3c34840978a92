"""Commands that start a Ray each do not take the same CPUs and GPUs, and say what they wait for."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import ExitStack, closing
from queue import SimpleQueue
from typing import TYPE_CHECKING

import pytest

from ltm_platform.ray_cluster.machine.claims import Claim, Need, claimed, claims
from ltm_platform.ray_cluster.resources import Resources
from ltm_platform.storage import locations

if TYPE_CHECKING:
    from pathlib import Path

THERE = Resources(cpus=4, gpus=2)
"""A machine with two GPUs that are declared, not there."""
FIRST = """
import sys
from ltm_platform.ray_cluster.machine.claims import Need, claimed
from ltm_platform.ray_cluster.resources import Resources
with claimed(Need("quickstart-1", 2, 2), Resources(cpus=4, gpus=2), waits=True):
    print("claimed", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def _a_machine_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(locations.HOME_VARIABLE, str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize("end", ["ends", "is killed"])
def test_the_second_waits_until_the_first_ends_and_says_for_what(end: str) -> None:
    said: SimpleQueue[str] = SimpleQueue()
    got: SimpleQueue[Claim] = SimpleQueue()

    def second() -> None:
        need = Need("quickstart-2", 2, 2)
        with claimed(need, THERE, waits=True, notify=said.put) as claim:
            got.put(claim)

    command = [sys.executable, "-c", FIRST]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdin
        assert first.stdout
        assert first.stdout.readline() == "claimed\n"
        thread = threading.Thread(target=second)
        thread.start()
        assert said.get() == "2 GPUs: quickstart-1 has them"
        assert got.empty()
        if end == "ends":
            with closing(first.stdin):
                first.stdin.write("\n")
        else:
            first.kill()
        assert got.get() == Claim("quickstart-2", 2, ("0", "1"))
        thread.join()
    assert said.empty()
    assert claims() == []


def test_who_needs_less_than_all_gets_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    with ExitStack() as stack:
        found = [
            stack.enter_context(claimed(Need(f"run-{n}", 2, 1), THERE, waits=True)) for n in (1, 2)
        ]
        assert [claim.gpus for claim in found] == [("5",), ("7",)]
        assert [claim.owner for claim in sorted(claims(), key=lambda one: one.owner)] == [
            "run-1",
            "run-2",
        ]


def test_who_does_not_wait_takes_them_though_another_has_them() -> None:
    with (
        claimed(Need("first", 4, 2), THERE, waits=True),
        claimed(Need("forced", 4, 2), THERE, waits=False) as claim,
    ):
        assert claim.gpus == ("0", "1")
        assert len(claims()) == 2


def test_a_machine_without_gpus_is_shared_by_its_cpus() -> None:
    here = Resources(cpus=4, gpus=0)
    said: SimpleQueue[str] = SimpleQueue()

    def third() -> None:
        with claimed(Need("third", 2, 0), here, waits=True, notify=said.put):
            pass

    with claimed(Need("first", 1, 0), here, waits=True):
        with claimed(Need("second", 2, 0), here, waits=True):
            thread = threading.Thread(target=third)
            thread.start()
            assert said.get() in (
                "2 CPUs: first, second have them",
                "2 CPUs: second, first have them",
            )
        thread.join()
    assert claims() == []


def test_one_alone_may_ask_for_more_cpus_than_there_are() -> None:
    """Whether a job fits is checked elsewhere, and may be overridden."""
    with claimed(Need("forced", 64, 0), Resources(cpus=4, gpus=0), waits=True) as claim:
        assert claim.cpus == 64
