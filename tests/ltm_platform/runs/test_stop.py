"""Ending a run before its time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ltm_platform.errors import UserError
from ltm_platform.job import JobSpec
from ltm_platform.runs.stop import stop
from ltm_platform.storage.files import STOP_FILE, SWEEP_FILE
from ltm_platform.storage.run_folder import RunFolder

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.reserve(JobSpec.load("quickstart", [f"cluster.storage={tmp_path}"]), "mine")


def test_a_stop_is_asked_for_and_forgotten_at_the_next_start(folder: RunFolder) -> None:
    with pytest.raises(UserError, match="is not going on"):
        stop(folder, now=False)
    folder.request_stop()
    with folder.locked():
        assert not (folder.path / STOP_FILE).exists()
        assert folder.pid == os.getpid()
    assert folder.pid is None


def test_stop_now_interrupts_the_process(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = folder.locked()
    lock.__enter__()
    got: list[int] = []

    def end(signum: int, _: object) -> None:
        got.append(signum)
        lock.__exit__(None, None, None)

    before = signal.signal(signal.SIGTERM, end)
    monkeypatch.setattr("ltm_platform.runs.stop.POLL_S", 0.01)
    try:
        stop(folder, now=True)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert got == [signal.SIGTERM]
    assert not (folder.path / STOP_FILE).exists()


def test_a_trial_is_not_stopped_alone(folder: RunFolder) -> None:
    (folder.path / SWEEP_FILE).touch()
    trial = RunFolder(folder.path / "trials" / "mine-001")
    trial.path.mkdir(parents=True)
    with pytest.raises(UserError, match=r"is a trial: stop its sweep .*stop mine"):
        stop(trial, now=False)


TRAIN = """
import sys
from pathlib import Path
from ltm_platform.storage.run_folder import RunFolder
folder = RunFolder(Path(sys.argv[1]))
with folder.locked():
    print("trains", flush=True)
    while not (folder.path / ".stop").exists():
        pass
"""


def test_a_run_of_another_process_saves_and_ends(folder: RunFolder) -> None:
    command = [sys.executable, "-c", TRAIN, str(folder.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "trains\n"
        assert folder.pid == process.pid
        stop(folder, now=False)
        assert not folder.is_locked()
    assert process.returncode == 0
