"""How runs stand, by their names."""

from __future__ import annotations

import json
import platform
from typing import TYPE_CHECKING

import pytest

from ltm_platform.cli.app import main
from ltm_platform.errors import UserError
from ltm_platform.events import EpochEnded, Started, Waiting
from ltm_platform.job import JobSpec
from ltm_platform.runs.lookup import LOST, WAITING, list_all, locate, summarise
from ltm_platform.runs.stop import stop
from ltm_platform.storage.files import SWEEP_FILE
from ltm_platform.storage.run_folder import RunFolder
from ltm_platform.tracking import find_run, tracked_run, tracked_sweep
from ltm_platform.tracking.runs import TRIALS_TAG

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ltm_platform.tracking import TrackedRun


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LTM_PLATFORM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture
def folder(store: str, tmp_path: Path) -> RunFolder:
    job = JobSpec.load("quickstart", [f"tracking.uri={store}", f"cluster.storage={tmp_path}"])
    return RunFolder.reserve(job, "mine")


@pytest.fixture
def run(store: str, folder: RunFolder) -> Iterator[TrackedRun]:
    """A run that is going on, restarted once with more workers."""
    job = JobSpec.load("quickstart", [f"tracking.uri={store}"])
    with folder.locked(), tracked_run(job, folder.name, folder.path) as run:
        for done, workers in ((0, 2), (45, 4)):
            run(Started(16, done // 45, 720, done, "cpu", workers))
        run(EpochEnded(90, 1, {"val/top1": 61.25, "train/images_per_s": 310.0}))
        run.flush()
        yield run


@pytest.mark.usefixtures("run")
def test_a_list_tells_how_runs_stand(store: str) -> None:
    (one,) = list_all(store, None)
    assert (one.name, one.state, one.epoch, one.workers, one.restarts) == (
        "mine",
        "RUNNING",
        "2/16",
        4,
        1,
    )
    assert (one.top1, one.images_per_s, one.where) == (61.25, 310.0, platform.node())
    assert 0 <= one.age_s < 3600


def test_a_run_whose_workers_do_not_fit_waits_until_they_start(run: TrackedRun, store: str) -> None:
    run(Waiting("8 GPUs: 6 are free now"))
    run.flush()
    assert list_all(store, None)[0].state == WAITING
    run(Started(16, 2, 720, 90, "cpu", 4))
    run.flush()
    assert list_all(store, None)[0].state == "RUNNING"


@pytest.mark.usefixtures("run")
def test_list_and_status_print_it(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["list", "--tracking-uri", store])
    header, line = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["run", "state", "epoch"]
    assert line.split()[:7] == ["mine", "RUNNING", "2/16", "61.2", "310", "4", "1"]
    main(["list", "--json", "--tracking-uri", store])
    assert json.loads(capsys.readouterr().out)[0]["epoch"] == "2/16"
    main(["status", "mine", "--tracking-uri", store])
    shown = capsys.readouterr().out
    assert "61.25 %" in shown
    assert "logs -f mine" in shown


def test_a_run_whose_process_is_gone_is_lost(store: str, folder: RunFolder) -> None:
    from mlflow import MlflowClient

    job = JobSpec.load("quickstart", [f"tracking.uri={store}"])
    with tracked_run(job, folder.name, folder.path) as run:
        pass
    MlflowClient(tracking_uri=store).update_run(run.run_id, status="RUNNING")
    assert summarise(find_run(store, "mine")).state == LOST
    with folder.locked():
        assert summarise(find_run(store, "mine")).state == "RUNNING"


def test_a_sweep_tells_how_many_of_its_trials_have_ended(store: str, folder: RunFolder) -> None:
    job = JobSpec.load("quickstart", [f"tracking.uri={store}"])
    with tracked_sweep(job, folder.name, folder.path) as sweep:
        sweep.tag(TRIALS_TAG, "3/8")
    assert summarise(find_run(store, "mine")).epoch == "3/8 trials"


def test_a_trial_goes_on_while_its_sweep_does_and_is_not_stopped_alone(
    store: str, folder: RunFolder
) -> None:
    (folder.path / SWEEP_FILE).touch()
    trial = RunFolder(folder.path / "trials" / "mine-001")
    trial.path.mkdir(parents=True)
    job = JobSpec.load("quickstart", [f"tracking.uri={store}"])
    with tracked_run(job, trial.name, trial.path):
        assert summarise(find_run(store, "mine-001")).state == LOST
        with folder.locked():
            assert summarise(find_run(store, "mine-001")).state == "RUNNING"
            with pytest.raises(UserError, match=r"is a trial: stop its sweep .*stop mine"):
                stop(trial, now=False)


def test_a_run_that_is_not_there_is_told_with_the_nearest(store: str, run: TrackedRun) -> None:
    assert locate("mine", store, None).record.run_id == run.run_id  # type: ignore[union-attr]
    with pytest.raises(UserError, match="did you mean 'mine'"):
        locate("mime", store, None)
