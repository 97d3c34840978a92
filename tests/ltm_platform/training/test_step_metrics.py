"""What training tells of its steps: each value once, and again what a dead driver lost."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from mlflow import MlflowClient

from ltm_platform.events import EpochEnded, Event, Progress
from ltm_platform.tracking import tracked_run
from ltm_platform.training import step_metrics
from ltm_platform.training.step_metrics import StepMeter
from ltm_platform.training.trainer import Stopped

from .small_run import MODEL, FolderContext, small_job

if TYPE_CHECKING:
    from pathlib import Path

    from ltm_platform.job import JobSpec

    from .conftest import StartRun

# 12 steps an epoch; ranks ask each other after every tenth.
JOB: dict[str, Any] = {
    "model": MODEL,
    "recipe": {"epochs": 2, "global_batch": 4, "ema_decay": 0.6},
    "checkpoint": {"every_steps": 5},
}


def test_a_checkpoint_holds_the_validation_of_its_epoch() -> None:
    """The driver may die between the checkpoint and the record of the epoch that it ends."""
    told: list[Event] = []
    meter = StepMeter(told.append, 32, ("train/loss",))
    ended = EpochEnded(22, 0, {"val/top1": 50.0})
    meter.tell(ended)
    assert told == [ended]
    again: list[Event] = []
    StepMeter(again.append, 32, ("train/loss",)).replay(meter.history())
    assert again == [Progress(22, 0, {"val/top1": 50.0}, ended.time_ms)]


@pytest.fixture
def job(store: str, monkeypatch: pytest.MonkeyPatch) -> JobSpec:
    """Every step is as long as the interval between messages."""
    monkeypatch.setattr(step_metrics, "SEND_INTERVAL_S", 0.0)
    return small_job(JOB).replace("tracking.uri", store)


def recorded(job: JobSpec, run_id: str) -> Counter[tuple[str, int]]:
    """How often the store has a value of training, by metric and step."""
    client = MlflowClient(tracking_uri=job.tracking.uri)
    keys = [key for key in client.get_run(run_id).data.metrics if not key.startswith("system/")]
    return Counter(
        (key, row.step) for key in keys for row in client.get_metric_history(run_id, key)
    )


def whole(epochs: int) -> set[tuple[str, int]]:
    """What a run records of its training, by metric and step."""
    by_step = ("train/loss", "train/ce", "train/ib_bound", "train/lr", "train/images_per_s")
    of_ib = (f"ib/{key}" for key in ("mi_input", "mi_label", "loss", "bound", "perplexity"))
    of_time = (f"time/{key}_share" for key in ("read", "decode", "copy", "compute", "exchange"))
    further = ("step_s", "read_ms", "decode_ms", "decode_processes", "validation_s")
    by_epoch = ("val/top1", "val/top5", "val/loss", "val/ema_top1", *of_ib, *of_time)
    by_epoch += ("train/ib_grad_ratio",)
    by_epoch += (*(f"time/{key}" for key in further), "memory/peak_gib")
    steps = {(key, step) for key in by_step for step in range(1, 12 * epochs + 1)}
    return steps | {(key, 12 * epoch) for key in by_epoch for epoch in range(1, epochs + 1)}


def test_every_metric_is_recorded_once_a_step(
    job: JobSpec, start_run: StartRun, tmp_path: Path
) -> None:
    run = start_run(job, FolderContext(tmp_path / "run"))
    with tracked_run(job, "digits-1", tmp_path) as tracked:
        run.train()
        run.trainer.measure_inference()
        for event in run.events:
            tracked(event)
    found = recorded(job, tracked.run_id)
    bench = {("bench/latency_ms", 24), ("bench/images_per_s", 24)}
    assert set(found) == whole(2) | bench
    assert set(found.values()) == {1}


@pytest.mark.parametrize("told", ["all", "half of it"])
def test_a_run_that_was_stopped_and_resumed_has_every_metric_once_a_step(
    job: JobSpec, start_run: StartRun, tmp_path: Path, told: str
) -> None:
    """Whatever of the first life had reached the store when its driver ended."""
    first = start_run(job, FolderContext(tmp_path / "first"))
    first.train()
    start = first.context.kept[3]  # of step 15
    last = {"all": 24, "half of it": 8}[told]
    with tracked_run(job, "digits-1", tmp_path) as tracked:
        for event in first.events:
            if not (isinstance(event, Progress) and event.step > last):
                tracked(event)
    resumed = start_run(job, FolderContext(tmp_path / "resumed", start=start.folder))
    resumed.train()
    with tracked_run(job, "digits-1", tmp_path, run_id=tracked.run_id) as tracked:
        for event in resumed.events:
            tracked(event)
    found = recorded(job, tracked.run_id)
    assert set(found.values()) == {1}
    assert set(found) >= {one for one in whole(2) if one[0] != "train/images_per_s"}


def test_a_run_that_went_back_records_twice_what_it_trained_twice_and_no_more(
    job: JobSpec, start_run: StartRun, tmp_path: Path
) -> None:
    first = start_run(job, FolderContext(tmp_path / "first"))
    first.train()
    with tracked_run(job, "digits-1", tmp_path) as tracked:
        for event in first.events:
            tracked(event)
    start = first.context.kept[3]  # of step 15
    again = start_run(job, FolderContext(tmp_path / "again", start=start.folder))
    again.train()
    with tracked_run(job, "digits-1", tmp_path, run_id=tracked.run_id, repeats=False) as tracked:
        for event in again.events:
            tracked(event)
    found = recorded(job, tracked.run_id)
    assert found == Counter({one: 1 + (one[1] > 15) for one in whole(2)})


def test_a_run_that_is_stopped_within_an_epoch_has_every_metric_once_a_step(
    job: JobSpec, start_run: StartRun, tmp_path: Path
) -> None:
    context = FolderContext(tmp_path / "run")
    context.stop_requested = True
    run = start_run(job, context)
    with tracked_run(job, "digits-1", tmp_path) as tracked:
        with pytest.raises(Stopped):
            run.train()
        for event in run.events:
            tracked(event)
    found = recorded(job, tracked.run_id)
    assert set(found.values()) == {1}
    assert set(found) == {one for one in whole(1) if one[1] <= 10}
