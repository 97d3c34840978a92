"""A job tried in a few steps: what is trained, what it says of the whole, and that all goes."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from mlflow import MlflowClient

from ltm_platform.checks import check_job
from ltm_platform.job import BatchPlan, JobSpec, changes
from ltm_platform.job.load import bundled_folder
from ltm_platform.runs.rehearsal import forecast, rehearsal_job
from ltm_platform.runs.removal import clear
from ltm_platform.storage.run_folder import RunFolder
from ltm_platform.tracking import list_runs, tracked_run

if TYPE_CHECKING:
    from pathlib import Path

    from ltm_platform.checks import CheckedJob

JOBS = sorted(file.stem for file in bundled_folder().glob("*.yaml"))


@pytest.mark.parametrize("name", JOBS)
def test_every_job_is_tried_as_it_is_but_for_its_length(name: str) -> None:
    job = JobSpec.load(name)
    tried = rehearsal_job(job)
    check_job(tried)
    before, after = job.flat(), tried.flat()
    assert {key for key in before if before[key] != after[key]} <= {
        "name",
        "data.limit_batches",
        "recipe.backbone.frozen_epochs",
        "recipe.epochs",
        "recipe.warmup_epochs",
        "recipe.early_stop",
        "cluster.max_failures",
        "tracking.aliases",
        "tracking.register_as",
        "tracking.log_model",
        "tracking.notify",
    }
    assert tried.name == f"{name}-smoke"
    assert changes(tried, tried) == {}


def test_names_stay_names() -> None:
    job = JobSpec.load("quickstart", [f"name={'x' * 55}-yz.1234"])
    assert rehearsal_job(job).name == f"{'x' * 55}-smoke"
    registered = job.replace("tracking.register_as", "model").replace("tracking.aliases", ["best"])
    assert rehearsal_job(registered).tracking.register_as is None


METRICS = {
    "train/images_per_s": 50.0,
    "time/read_share": 0.1,
    "time/decode_share": 0.4,
    "time/step_s": 2.0,
    "time/read_ms": 1.0,
    "time/decode_ms": 7.0,
    "time/decode_processes": 4,
    "time/validation_s": 6.0,
    "memory/peak_gib": 3.5,
}


def job(epochs: int, *overrides: str) -> JobSpec:
    """The whole one."""
    settings = (f"recipe.epochs={epochs}", "recipe.warmup_epochs=0", *overrides)
    return JobSpec.load("ltm_vit_s", settings)


def tried(val: int = 50_000) -> CheckedJob:
    """256 images of 1,000,000 a step, 32 of them for each of 8 workers."""
    dataset = SimpleNamespace(train=range(1_000_000), val=range(val))
    parts: Any = {"batch": BatchPlan(256, 32, 1, 8), "dataset": dataset}
    return SimpleNamespace(**parts)  # type: ignore[return-value]  # what is asked of it


def test_the_slower_of_network_and_loader_gives_the_pace() -> None:
    # The network takes 1 s a step; 32 images of 8 ms by 4 processes take 0.064 s.
    found = forecast(tried(), job(300), METRICS, 32)
    assert found.step_s == pytest.approx(1.0)
    assert found.network_images_per_s == found.images_per_s == pytest.approx(256)
    assert found.loader_images_per_s == pytest.approx(256 / 0.064)
    assert found.memory_gib == 3.5
    # 196 batches of validation, of which three took 6 s
    assert found.validation_s == pytest.approx(6 * 196 / 3)
    assert found.hours == pytest.approx(300 * (1_000_000 / 256 + 392) / 3600, rel=1e-3)
    slow = forecast(tried(), job(300), METRICS | {"time/decode_ms": 799.0}, 32)
    assert slow.step_s == pytest.approx(6.4)
    assert slow.images_per_s == slow.loader_images_per_s == pytest.approx(40)


def test_without_decode_processes_both_take_turns() -> None:
    found = forecast(tried(), job(1), METRICS | {"time/decode_processes": 0}, 32)
    assert found.step_s == pytest.approx(1.0 + 0.256)
    assert found.loader_images_per_s is None


def test_of_a_data_set_of_one_batch_the_rate_is_that_of_its_only_step() -> None:
    known = {k: v for k, v in METRICS.items() if k in ("time/validation_s", "memory/peak_gib")}
    found = forecast(tried(), job(1), known | {"train/images_per_s": 64.0}, 32)
    assert (found.step_s, found.images_per_s, found.loader_images_per_s) == (4, 64, None)


def test_a_validation_set_of_less_than_three_batches_is_counted_whole() -> None:
    assert forecast(tried(val=300), job(1), METRICS, 32).validation_s == pytest.approx(6.0)


def test_epochs_that_the_job_itself_limits_are_as_short() -> None:
    found = forecast(tried(), job(10, "data.limit_batches=20"), METRICS, 32)
    assert found.validation_s == pytest.approx(6 * 20 / 3)
    assert found.hours == pytest.approx(10 * (20 + 40) / 3600)


@pytest.mark.parametrize("keep_log", [False, True])
def test_nothing_of_a_run_stays(store: str, tmp_path: Path, keep_log: bool) -> None:
    settings = [f"cluster.storage={tmp_path}/runs", f"tracking.uri={store}"]
    job = JobSpec.load("quickstart", settings)
    folder, other = RunFolder.reserve(job), RunFolder.reserve(job)
    for one in (folder, other):
        one.write_job(job.to_yaml())
        one.log.write_text("a line")
        (one.path / "checkpoint_1").mkdir()
        (one.path / "checkpoint_1" / "weights").write_text("weights")
        with tracked_run(job, one.name, one.path) as run:
            run.log_files([one.log], "files")
            one.belongs_to(run.run_id)
    artifacts = MlflowClient(tracking_uri=store).list_artifacts
    assert folder.run_id
    assert artifacts(folder.run_id)
    run_id = folder.run_id
    clear(folder, store, keep_log=keep_log)
    assert [run.name for run in list_runs(store)] == [other.name]
    assert not artifacts(run_id)
    assert other.job.exists()
    if keep_log:
        assert list(folder.path.iterdir()) == [folder.log]
        assert not folder.has_begun
    else:
        assert not folder.path.exists()
    assert RunFolder.reserve(job, folder.name) == replace(folder)
