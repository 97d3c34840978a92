"""Runs that a power cut left RUNNING, in real stores, held by real processes."""

from __future__ import annotations

import platform
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from ltm_platform.job import JobSpec
from ltm_platform.runs.reconcile import GONE, STATUS, reconcile
from ltm_platform.storage.run_folder import RunFolder
from ltm_platform.tracking import find_run, list_runs, tracked_run, tracked_sweep

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# A run as the commands hold it, without its training.
TRAINING = """
import sys, time
from ltm_platform.job import JobSpec
from ltm_platform.storage.run_folder import RunFolder
from ltm_platform.tracking import tracked_run
job = JobSpec.load("quickstart", ["tracking.uri=" + sys.argv[1], "cluster.storage=" + sys.argv[2]])
folder = RunFolder.reserve(job, "cut")
with folder.locked(), tracked_run(job, folder.name, folder.path) as run:
    run.log_metrics({"val/top1": 50.0}, step=1, time_ms=int(time.time() * 1000))
    print("training", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def training(store: str, storage: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that trains the run ``cut``, from when it is recorded on."""
    command = [sys.executable, "-c", TRAINING, store, str(storage)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "training\n"
            yield process
        finally:
            process.kill()


def test_a_run_is_closed_once_its_process_is_gone(store: str, tmp_path: Path) -> None:
    with training(store, tmp_path) as process:
        (alive,) = reconcile(store)
        assert (alive.run, alive.trained) == ("cut", True)
        assert find_run(store, "cut").status == "RUNNING"
        process.send_signal(signal.SIGKILL)
        process.wait()
    (gone,) = reconcile(store, dry_run=True)
    assert (gone.trained, find_run(store, "cut").status) == (False, "RUNNING")
    assert reconcile(store) == [gone]
    run = find_run(store, "cut")
    assert (run.status, run.error) == (STATUS, GONE)
    assert run.ended_ms == run.last_recorded_ms
    assert reconcile(store) == []
    with RunFolder(tmp_path / "cut").locked():
        pass


@pytest.fixture
def elsewhere(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store with a RUNNING run of another machine, whose folder has the path of one here."""
    from mlflow import MlflowClient

    with monkeypatch.context() as there:
        there.setattr(platform, "node", lambda: "another-machine")
        job = JobSpec.load("quickstart", [f"tracking.uri={store}"])
        with tracked_run(job, "far", tmp_path) as run:
            pass
    MlflowClient(tracking_uri=store).update_run(run.run_id, status="RUNNING")
    assert [one.status for one in list_runs(store)] == ["RUNNING"]
    return store


def test_a_run_of_another_machine_is_let_be_unless_it_is_silent(elsewhere: str) -> None:
    (unknown,) = reconcile(elsewhere)
    assert unknown.trained is None
    assert "another-machine" in unknown.reason
    (fresh,) = reconcile(elsewhere, silent_s=3600)
    assert fresh.trained is None
    assert find_run(elsewhere, "far").status == "RUNNING"
    since = time.time() - find_run(elsewhere, "far").last_recorded_ms / 1000
    (silent,) = reconcile(elsewhere, silent_s=since)
    assert silent.trained is False
    run = find_run(elsewhere, "far")
    assert run.status == STATUS
    assert run.error
    assert "recorded nothing" in run.error


def test_a_trial_is_trained_for_as_long_as_its_sweep(store: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    job, folder = JobSpec.load("quickstart", [f"tracking.uri={store}"]), RunFolder(tmp_path)
    trial_folder = tmp_path / "trial"
    trial_folder.mkdir()
    with (
        folder.locked(),
        tracked_sweep(job, "sweep", tmp_path) as sweep,
        tracked_run(job, "trial", trial_folder, parent=sweep.run_id) as trial,
    ):
        trial.log_metrics({"val/top1": 1.0}, step=1, time_ms=int(time.time() * 1000))
        assert [one.trained for one in reconcile(store)] == [True, True]
    for run_id in (sweep.run_id, trial.run_id):
        MlflowClient(tracking_uri=store).update_run(run_id, status="RUNNING")
    assert {one.run for one in reconcile(store) if one.trained is False} == {"sweep", "trial"}
    ended = [find_run(store, name) for name in ("sweep", "trial")]
    assert [run.status for run in ended] == [STATUS, STATUS]
    assert ended[0].ended_ms == ended[1].ended_ms == ended[1].last_recorded_ms
