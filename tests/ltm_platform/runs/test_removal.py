"""Runs that are removed, in real stores, with their checkpoints here and in an object store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from mlflow import MlflowClient

from ltm_platform import api
from ltm_platform.errors import UserError
from ltm_platform.job import JobSpec
from ltm_platform.storage.files import SWEEP_FILE
from ltm_platform.storage.run_folder import RunFolder
from ltm_platform.tracking import list_runs, tracked_run
from ltm_platform.tracking.runs import HOST_TAG

from ..storage.conftest import write_run

if TYPE_CHECKING:
    from ..conftest import Run


def recorded(store: str, root: Path, name: str, **options: str) -> RunFolder:
    """A finished run with checkpoints and an artifact."""
    job = JobSpec.load("quickstart", [f"tracking.uri={store}"])
    folder = RunFolder(root / name)
    folder.path.mkdir(parents=True)
    with tracked_run(job, name, folder.path, **options) as run:
        run.log_json({"x": 1}, "x.json")
        folder.belongs_to(run.run_id)
    write_run(folder.path)
    return folder


def artifacts(store: str, folder: RunFolder) -> Path:
    """The folder of a run's artifacts."""
    run = MlflowClient(store).get_run(folder.run_id or "")
    return Path((run.info.artifact_uri or "").removeprefix("file://"))


def test_nothing_of_a_run_stays_but_its_neighbours(store: str, tmp_path: Path) -> None:
    gone, stays = (recorded(store, tmp_path / "runs", name) for name in ("gone", "stays"))
    files = artifacts(store, gone)
    assert (files / "x.json").is_file()
    (found,) = api.removals(["gone"], tracking_uri=store)
    assert found.stored_bytes > 0
    assert api.remove(["gone"], tracking_uri=store) == [found]
    assert not gone.path.exists()
    assert not files.exists()
    assert [run.name for run in list_runs(store)] == ["stays"]
    assert (stays.path / "checkpoint_a").is_dir()
    assert (artifacts(store, stays) / "x.json").is_file()
    with pytest.raises(UserError, match="'gone' was removed, with its checkpoints"):
        api.removals(["gone"], tracking_uri=store)
    assert recorded(store, tmp_path / "runs", "gone").path.exists()  # the name is free


def test_checkpoints_in_an_object_store_go_too(store: str, tmp_path: Path, bucket: str) -> None:
    folder = recorded(store, tmp_path / "runs", "gone")
    folder.store_at(f"{bucket}/runs")
    folder.storage.put(folder.path)
    assert folder.storage.files(recursive=True)
    storage = folder.storage
    api.remove(["gone"], tracking_uri=store)
    assert not storage.exists()
    assert not folder.path.exists()


def test_a_sweep_goes_with_its_trials_and_no_trial_alone(store: str, tmp_path: Path) -> None:
    sweep = recorded(store, tmp_path / "runs", "sweep")
    (sweep.path / SWEEP_FILE).touch()
    recorded(store, sweep.path / "trials", "trial-1", parent=sweep.run_id or "")
    with pytest.raises(UserError, match=r"'trial-1' is a trial: remove its sweep .* rm sweep"):
        api.remove(["trial-1"], tracking_uri=store)
    (found,) = api.remove(["sweep"], tracking_uri=store)
    assert [trial.name for trial in found.trials] == ["trial-1"]
    assert list_runs(store) == []
    assert not sweep.path.exists()


def test_what_goes_on_is_needed_or_is_elsewhere_is_refused(store: str, tmp_path: Path) -> None:
    job = JobSpec.load("quickstart", [f"tracking.uri={store}"])
    folder = RunFolder(tmp_path / "runs" / "on")
    folder.path.mkdir(parents=True)
    with (
        folder.locked(),
        tracked_run(job, "on", folder.path),
        pytest.raises(UserError, match=r"'on' goes on \(RUNNING\): .* stop on' ends it"),
    ):
        api.remove(["on"], tracking_uri=store)
    used = recorded(store, tmp_path / "runs", "used")
    client = MlflowClient(store)
    client.create_registered_model("vit")
    client.create_model_version("vit", str(artifacts(store, used)), run_id=used.run_id)
    with pytest.raises(UserError, match="'used' is made version 1 of the model 'vit'"):
        api.remove(["on", "used"], tracking_uri=store)
    away = recorded(store, tmp_path / "runs", "away")
    client.set_tag(away.run_id or "", HOST_TAG, "another")
    away.path.rename(tmp_path / "moved")
    with pytest.raises(UserError, match="'away' is on the machine another"):
        api.remove(["away"], tracking_uri=store)
    assert {run.name for run in list_runs(store)} == {"on", "used", "away"}


def test_it_is_asked_first(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call_here: Run
) -> None:
    folder = recorded(store, tmp_path / "runs", "mine")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    refused = call_here("rm", "mine")
    assert refused.code == 2
    assert refused.err.strip().endswith(
        "nothing is removed: without a terminal to ask at, say --yes"
    )
    assert folder.path.exists()
    done = call_here("rm", "mine", "--yes")
    assert (done.code, done.out.splitlines()[-1]) == (0, "removed mine")
    assert not folder.path.exists()
