"""What a trial finds recorded, and what it leaves, without its training."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from mlflow import MlflowClient

from ltm_platform.errors import UserError
from ltm_platform.job import JobSpec
from ltm_platform.ray_cluster.resources import Resources
from ltm_platform.tracking import STOPPED_TAG, find_run, list_runs, tracked_run, tracked_sweep
from ltm_platform.tracking.runs import RUN_FOLDER_TAG
from ltm_platform.tuning.sweep import check_not_lost, drop_unknown
from ltm_platform.tuning.trial import EPOCH, FINISHED, STOPPED, TrialSettings, train

from ..storage.sealing import seal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def job(store: str) -> JobSpec:
    return JobSpec.load("quickstart", [f"tracking.uri={store}", "cluster.workers=1"])


@pytest.fixture
def settings(job: JobSpec, tmp_path: Path) -> Iterator[TrialSettings]:
    with tracked_sweep(job, "s", tmp_path) as sweep:
        yield TrialSettings(job, tmp_path / "trials", sweep.run_id, Resources(cpus=1, gpus=0))


def test_a_trial_that_ended_is_not_repeated(settings: TrialSettings) -> None:
    for name, stopped in (("whole", None), ("stopped", "3")):
        folder = settings.folder / name
        folder.mkdir(parents=True)
        with tracked_run(settings.job, name, folder, parent=settings.parent) as run:
            run.log_metrics({"val/top1": 50.0}, step=1, time_ms=1)
            if stopped:
                run.tag(STOPPED_TAG, stopped)
    (whole,) = train(settings, "whole", {"recipe.lr": 1e-3})
    assert whole == {"val/top1": 50.0, EPOCH: settings.job.recipe.epochs, FINISHED: 1}
    (stopped_early,) = train(settings, "stopped", {"recipe.lr": 1e-3})
    assert stopped_early == {"val/top1": 50.0, EPOCH: 3, STOPPED: 1}


def test_a_sweep_that_was_killed_while_it_noted_its_job_notes_it_when_it_goes_on(
    job: JobSpec, store: str, tmp_path: Path
) -> None:
    with tracked_sweep(job, "whole", tmp_path / "whole") as sweep:
        whole = sweep.run_id
    client = MlflowClient(tracking_uri=store)
    experiment = client.get_run(whole).info.experiment_id
    tags = client.get_run(whole).data.tags | {RUN_FOLDER_TAG: str(tmp_path / "cut-off")}
    cut_off = client.create_run(experiment, tags=tags).info.run_id
    with tracked_sweep(job, "cut-off", tmp_path / "cut-off") as sweep:
        assert sweep.run_id == cut_off
    assert client.get_run(cut_off).data.params == client.get_run(whole).data.params
    assert [file.path for file in client.list_artifacts(cut_off)] == ["job.yaml"]


def test_values_that_make_no_job_are_a_failed_run(settings: TrialSettings, store: str) -> None:
    for name, values in (
        ("outside", {"recipe.warmup_epochs": 99}),  # the job refuses it
        ("unknown", {"recipe.optimizer": "nonsense"}),  # the checks do
    ):
        (field,) = values
        with pytest.raises(UserError, match=field):
            list(train(settings, name, values))
        run = find_run(store, name)
        assert run.status == "FAILED"
        assert run.error
        assert field in run.error
        assert run.tags["mlflow.parentRunId"] == settings.parent


def test_the_run_of_a_trial_that_has_ended_can_be_added_to(
    job: JobSpec, store: str, tmp_path: Path
) -> None:
    with tracked_sweep(job, "s", tmp_path) as sweep:
        for name in ("one", "other"):
            with tracked_run(job, name, tmp_path / name, parent=sweep.run_id):
                pass
        before = find_run(store, "one")
        with sweep.ended_trial(tmp_path / "one") as run:
            run.log_metrics({"late": 1.0}, step=1, time_ms=1)
        after = find_run(store, "one")
    assert (after.status, after.ended_ms) == ("FINISHED", before.ended_ms)
    assert after.metrics["late"] == 1.0
    assert "late" not in find_run(store, "other").metrics


def test_a_trial_gets_the_metrics_that_its_run_lacks(
    job: JobSpec, store: str, tmp_path: Path
) -> None:
    """One that was stopped early, and whose process was killed before it had sent them."""
    with tracked_sweep(job, "s", tmp_path) as sweep:
        with tracked_run(job, "one", tmp_path / "one", parent=sweep.run_id) as run:
            run.log_metrics({"train/loss": 2.0}, step=45, time_ms=1)
        sweep.complete_trial(tmp_path / "one", {"train/loss": 1.0, "val/top1": 50.0})
    assert find_run(store, "one").metrics == {"train/loss": 2.0, "val/top1": 50.0}
    client = MlflowClient(tracking_uri=store)
    assert [row.step for row in client.get_metric_history(run.run_id, "val/top1")] == [45]


def test_no_trial_is_left_running(job: JobSpec, store: str, tmp_path: Path) -> None:
    with suppress(KeyboardInterrupt), tracked_sweep(job, "s", tmp_path) as sweep:
        folder = tmp_path / "cut-off"
        folder.mkdir()
        with tracked_run(job, "cut-off", folder, parent=sweep.run_id) as run:
            pass
        MlflowClient(tracking_uri=store).update_run(run.run_id, status="RUNNING")
        raise KeyboardInterrupt
    assert [find_run(store, name).status for name in ("s", "cut-off")] == ["KILLED", "KILLED"]


def test_what_tune_never_knew_is_removed(job: JobSpec, store: str, tmp_path: Path) -> None:
    """Trials that began just before a sweep was killed are made again, and counted once."""
    trials = tmp_path / "trials"
    with tracked_sweep(job, "s", tmp_path) as sweep:
        for name in ("known", "lost"):
            folder = trials / name
            folder.mkdir(parents=True)
            with tracked_run(job, name, folder, parent=sweep.run_id):
                (folder / "job.yaml").write_text(job.to_yaml())
        (trials / "without-a-run").mkdir()
        drop_unknown(trials, {"known"}, sweep)
    assert [folder.name for folder in trials.iterdir()] == ["known"]
    assert {run.name for run in list_runs(store)} == {"s", "known"}


def test_trials_are_not_removed_when_tunes_record_is_lost(tmp_path: Path) -> None:
    folder = tmp_path / "s" / "trials"
    for name in ("s-001", "s-002", "s-003"):
        (folder / name).mkdir(parents=True)
    check_not_lost(folder, set())
    for name in ("s-001", "s-002"):
        path = folder / name / "checkpoint_1"
        path.mkdir()
        seal(path, [])
    check_not_lost(folder, {"s-001", "s-002"})
    with pytest.raises(UserError, match=r"'s' has lost Tune's record .* \(s-002\)"):
        check_not_lost(folder, {"s-001"})


def test_a_trial_that_was_cut_off_is_ended_as_the_sweep_says(
    job: JobSpec, store: str, tmp_path: Path
) -> None:
    folder = tmp_path / "trials" / "stopped"
    with tracked_sweep(job, "s", tmp_path) as sweep:
        with suppress(SystemExit), tracked_run(job, "stopped", folder, parent=sweep.run_id):
            raise SystemExit
        assert find_run(store, "stopped").status == "KILLED"
        sweep.end_trial(folder, "FINISHED", {STOPPED_TAG: "2"})
        sweep.end_trial(folder, "FAILED", {})
    run = find_run(store, "stopped")
    assert (run.status, run.tags[STOPPED_TAG]) == ("FINISHED", "2")
