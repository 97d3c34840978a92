"""What MLflow keeps of a run, in real sqlite stores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from ltm_platform.errors import UserError
from ltm_platform.events import EpochEnded, ImagesLeftOut, Measured, Profiled, Progress, Started
from ltm_platform.job import JobSpec
from ltm_platform.tracking import (
    RunRecord,
    TrackedRun,
    connect_meanwhile,
    list_runs,
    read_curves,
    tracked_run,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient


FOLDER = Path("/runs/digits-1")


@pytest.fixture
def job(store: str) -> JobSpec:
    return JobSpec.load("quickstart", [f"tracking.uri={store}", "model.options={rank: 8}"])


@pytest.fixture
def client(store: str) -> MlflowClient:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=store)


def only_run(store: str) -> RunRecord:
    (run,) = list_runs(store)
    return run


def history(client: MlflowClient, run_id: str, metric: str) -> list[tuple[int, float, int]]:
    rows = client.get_metric_history(run_id, metric)
    return sorted((row.step, row.value, row.timestamp) for row in rows)


@pytest.mark.filterwarnings("error")
def test_a_store_that_cannot_be_opened_is_told_by_the_run_alone(
    tmp_path: Path, job: JobSpec
) -> None:
    (tmp_path / "file").touch()
    uri = f"sqlite:///{tmp_path / 'file' / 'mlflow.db'}"
    connect_meanwhile(uri).join()
    unreachable = job.replace("tracking.uri", uri)
    with (
        pytest.raises(UserError, match="cannot be made"),
        tracked_run(unreachable, "digits-1", FOLDER),
    ):
        pass


def test_images_that_are_left_out_are_named_also_after_the_run_was_resumed(
    tmp_path: Path, job: JobSpec, client: MlflowClient
) -> None:
    with tracked_run(job, "digits-1", tmp_path) as run:
        run(ImagesLeftOut({"training": ["image 'b'"], "validation": ["image 'v'"]}))
    with tracked_run(job, "digits-1", tmp_path, run_id=run.run_id) as run:
        run(ImagesLeftOut({"training": ["image 'ü'", "image 'a'"], "validation": []}))
    path = client.download_artifacts(run.run_id, "bad_images.json", str(tmp_path))
    assert json.loads(Path(path).read_text()) == {
        "training": ["image 'a'", "image 'b'", "image 'ü'"],
        "validation": ["image 'v'"],
    }


def test_a_trace_becomes_artifacts(tmp_path: Path, job: JobSpec, client: MlflowClient) -> None:
    with tracked_run(job, "digits-1", tmp_path) as run:
        run(Profiled({"trace.json.gz": b"traced"}, "ten steps"))
    path = client.download_artifacts(run.run_id, "profile", str(tmp_path))
    assert (Path(path) / "trace.json.gz").read_bytes() == b"traced"


# --- the status at the end


def test_a_run_that_was_killed_while_it_noted_its_job_notes_the_rest_when_it_goes_on(
    job: JobSpec, store: str, client: MlflowClient, tmp_path: Path
) -> None:
    with tracked_run(job, "whole", tmp_path):
        pass
    whole = only_run(store)
    experiment = client.get_experiment_by_name(job.tracking.experiment)
    cut_off = client.create_run(experiment.experiment_id).info.run_id
    client.log_param(cut_off, "recipe.lr", whole.params["recipe.lr"])
    with tracked_run(job, "cut-off", tmp_path, run_id=cut_off):
        pass
    assert client.get_run(cut_off).data.params == whole.params
    assert [file.path for file in client.list_artifacts(cut_off)] == ["job.yaml"]
    changed = job.replace("recipe.lr", 1e-4)
    with tracked_run(changed, "cut-off", tmp_path, run_id=cut_off):
        pass
    assert client.get_run(cut_off).data.params == whole.params


def test_a_run_that_ends_is_finished(job: JobSpec, store: str, client: MlflowClient) -> None:
    with tracked_run(job, "digits-1", FOLDER) as run:
        assert client.get_run(run.run_id).info.status == "RUNNING"
    record = only_run(store)
    assert (record.name, record.status, record.error) == ("digits-1", "FINISHED", None)
    assert (record.experiment, record.folder) == ("ltm-platform", str(FOLDER))
    assert record.ended_ms is not None
    assert record.ended_ms >= record.started_ms


def test_a_run_that_breaks_is_failed_and_says_why(job: JobSpec, store: str) -> None:
    with pytest.raises(RuntimeError, match="rank 1"), tracked_run(job, "digits-1", FOLDER):
        raise RuntimeError("rank 1: out of memory")
    record = only_run(store)
    assert (record.status, record.error) == ("FAILED", "RuntimeError: rank 1: out of memory")
    assert record.ended_ms is not None


def test_an_error_too_long_for_a_tag_keeps_its_beginning(job: JobSpec, store: str) -> None:
    with pytest.raises(RuntimeError), tracked_run(job, "digits-1", FOLDER):
        raise RuntimeError("long " * 10_000)
    record = only_run(store)
    assert record.status == "FAILED"
    assert record.error is not None
    assert record.error.startswith("RuntimeError: long long")


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_a_run_that_is_interrupted_is_killed(
    job: JobSpec, store: str, interrupt: type[BaseException]
) -> None:
    with pytest.raises(interrupt), tracked_run(job, "digits-1", FOLDER) as run:
        run.log_metrics({"val/top1": 50.0}, step=3, time_ms=1)
        raise interrupt
    record = only_run(store)
    assert (record.status, record.error) == ("KILLED", None)
    assert record.metrics["val/top1"] == 50.0


def test_an_image_is_known_by_its_key_and_step(job: JobSpec, store: str) -> None:  # noqa: ARG001
    with tracked_run(job, "digits-1", FOLDER) as run:
        assert not run.has_image("confusion matrix", 3)
        run.log_image(Image.new("RGB", (8, 8)), "confusion matrix", 3)
        assert run.has_image("confusion matrix", 3)
        assert not run.has_image("confusion matrix", 30)
        assert not run.has_image("confusion", 3)


def test_an_interruption_does_not_undo_how_the_run_was_ended(
    job: JobSpec, client: MlflowClient, store: str
) -> None:
    with pytest.raises(KeyboardInterrupt), tracked_run(job, "digits-1", FOLDER) as run:
        client.set_terminated(run.run_id, "FINISHED")
        raise KeyboardInterrupt
    assert only_run(store).status == "FINISHED"


# --- what is kept


def test_events_become_metrics_at_their_steps(
    job: JobSpec, store: str, client: MlflowClient
) -> None:
    with tracked_run(job, "digits-1", FOLDER) as run:
        run(Started(epochs=1, epochs_done=0, steps=2, steps_done=0, device="cpu", workers=2))
        run(Progress(1, 0, {"train/loss": 2.0, "train/lr": 0.1}, time_ms=1001))
        run(Progress(2, 0, {"train/loss": 1.0, "train/lr": 0.2}, time_ms=1002))
        run(EpochEnded(2, 0, {"val/top1": 75.0}, time_ms=1003))
        run(Measured(2, 0, {"bench/latency_ms": 4.0}, time_ms=1004))
    assert history(client, run.run_id, "train/loss") == [(1, 2.0, 1001), (2, 1.0, 1002)]
    assert history(client, run.run_id, "val/top1") == [(2, 75.0, 1003)]
    latest = {"train/loss": 1.0, "train/lr": 0.2, "val/top1": 75.0, "bench/latency_ms": 4.0}
    assert run.metrics == latest
    assert latest.items() <= only_run(store).metrics.items()


@pytest.mark.parametrize("resumed", [False, True])
def test_steps_told_again_after_a_restart_are_recorded_once(
    job: JobSpec, client: MlflowClient, resumed: bool
) -> None:
    def begin(run: TrackedRun, steps_done: int) -> None:
        run(Started(1, 0, 9, steps_done, "cpu", 2))

    def steps(run: TrackedRun, first: int, last: int) -> None:
        for step in range(first, last + 1):
            run(Progress(step, 0, {"train/loss": 1.0 / step}, time_ms=step))

    with tracked_run(job, "digits-1", FOLDER) as run:
        begin(run, 0)
        steps(run, 1, 5)
        if not resumed:
            begin(run, 3)
            steps(run, 2, 7)
    if resumed:
        with tracked_run(job, "digits-1", FOLDER, run_id=run.run_id) as run:
            begin(run, 3)
            steps(run, 2, 7)
    found = [step for step, *_ in history(client, run.run_id, "train/loss")]
    assert found == [1, 2, 3, 4, 5, 6, 7]
    restarts = client.get_run(run.run_id).data.tags.get("ltm.restarts")
    assert restarts == (None if resumed else "1")


def test_a_run_that_goes_on_in_another_way_records_its_steps_anew(
    job: JobSpec, client: MlflowClient, store: str
) -> None:
    with tracked_run(job, "digits-1", FOLDER) as run:
        run(Progress(5, 0, {"train/loss": 9.0}, time_ms=1))
    with tracked_run(job, "digits-1", FOLDER, run_id=run.run_id, repeats=False) as run:
        run(Started(1, 0, 9, 3, "cpu", 2))
        run(Progress(4, 0, {"train/loss": 2.0}, time_ms=2))
        run(Progress(5, 0, {"train/loss": 1.0}, time_ms=2))
    assert [step for step, *_ in history(client, run.run_id, "train/loss")] == [4, 5, 5]
    # Of a step that was recorded again the last counts.
    curves = read_curves(store, run.run_id, ["train/loss"])
    assert curves == {"train/loss": [(4, 2.0), (5, 1.0)]}


def test_a_run_that_goes_on_in_another_way_repeats_nothing_from_before(
    job: JobSpec, client: MlflowClient
) -> None:
    """What its network costs, and the history that its checkpoint holds."""
    with tracked_run(job, "digits-1", FOLDER) as run:
        run.log_metrics({"model/gmacs": 3.7}, step=0, time_ms=1)
        run(Progress(3, 0, {"train/loss": 9.0}, time_ms=1))
        run(EpochEnded(6, 0, {"val/top1": 50.0}, time_ms=1))
    with tracked_run(job, "digits-1", FOLDER, run_id=run.run_id, repeats=False) as run:
        run.log_metrics({"model/gmacs": 3.7}, step=0, time_ms=2)
        for steps_done in (4, 5):  # the workers are started twice
            run(Started(1, 0, 9, steps_done, "cpu", 2))
            run(Progress(3, 0, {"train/loss": 9.0}, time_ms=2))
        run(EpochEnded(6, 0, {"val/top1": 60.0}, time_ms=2))
    assert history(client, run.run_id, "model/gmacs") == [(0, 3.7, 1)]
    assert history(client, run.run_id, "train/loss") == [(3, 9.0, 1)]
    assert history(client, run.run_id, "val/top1") == [(6, 50.0, 1), (6, 60.0, 2)]


def test_params_are_the_resolved_job(job: JobSpec, store: str) -> None:
    with tracked_run(job, "digits-1", FOLDER):
        pass
    assert only_run(store).params == {key: str(value) for key, value in job.flat().items()}


def test_a_plan_that_a_budget_has_chosen_is_among_them(job: JobSpec, store: str) -> None:
    job = job.overridden(["model.target_gmacs=0.012"])
    with tracked_run(job, "digits-1", FOLDER, plan={"blocks.0": 40}):
        pass
    assert only_run(store).params["model.plan"] == "{'blocks.0': 40}"


def test_many_and_long_params_are_kept(job: JobSpec, store: str) -> None:
    options = {f"option{n}": n for n in range(150)} | {"long": "x" * 10_000}
    job = job.replace("model.options", options)
    with tracked_run(job, "digits-1", FOLDER):
        pass
    params = only_run(store).params
    assert params.keys() == job.flat().keys()
    assert params["model.options.option149"] == "149"
    assert set(params["model.options.long"]) == {"x"}
    assert 1000 < len(params["model.options.long"]) < 10_000


def test_the_job_can_be_loaded_back(job: JobSpec, client: MlflowClient, tmp_path: Path) -> None:
    with tracked_run(job, "digits-1", FOLDER) as run:
        pass
    file = client.download_artifacts(run.run_id, "job.yaml", str(tmp_path))
    assert JobSpec.load(file) == job


def test_files_and_tags_are_kept(job: JobSpec, client: MlflowClient, tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"weights")
    with tracked_run(job, "digits-1", FOLDER) as run:
        run.log_files([weights], "checkpoints/best")
        run.tag("ltm.checkpoint_best", "/runs/digits-1/checkpoint")
    artifacts = [item.path for item in client.list_artifacts(run.run_id, "checkpoints/best")]
    assert artifacts == ["checkpoints/best/model.safetensors"]
    tags = client.get_run(run.run_id).data.tags
    assert tags["ltm.checkpoint_best"] == "/runs/digits-1/checkpoint"


def test_artifacts_lie_beside_the_store(job: JobSpec, store: str, tmp_path: Path) -> None:
    with tracked_run(job, "digits-1", FOLDER):
        pass
    run_id = only_run(store).run_id
    assert (tmp_path / f"artifacts/ltm-platform/{run_id}/artifacts/job.yaml").is_file()


def test_a_run_goes_on_where_it_stopped(job: JobSpec, store: str, client: MlflowClient) -> None:
    with pytest.raises(KeyboardInterrupt), tracked_run(job, "digits-1", FOLDER) as run:
        run.log_metrics({"model/gmacs": 3.7}, step=0, time_ms=1000)
        run(Progress(1, 0, {"train/loss": 2.0}, time_ms=1001))
        raise KeyboardInterrupt
    assert only_run(store).status == "KILLED"
    with tracked_run(job, "digits-1", FOLDER, run_id=run.run_id) as same:
        assert client.get_run(run.run_id).info.status == "RUNNING"
        same.log_metrics({"model/gmacs": 3.7}, step=0, time_ms=1002)
        same(Progress(2, 0, {"train/loss": 1.0}, time_ms=1002))
    record = only_run(store)
    assert (record.run_id, record.status) == (run.run_id, "FINISHED")
    assert history(client, run.run_id, "train/loss") == [(1, 2.0, 1001), (2, 1.0, 1002)]
    assert history(client, run.run_id, "model/gmacs") == [(0, 3.7, 1000)]
