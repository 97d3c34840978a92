"""The real Trainer goes on from a checkpoint as if nothing had happened, to the bit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ltm_platform.events import EpochEnded, Progress, Started
from ltm_platform.training.trainer import Stopped

from ...marks import fast_only
from .small_run import MODEL, FolderContext, damaged_digits, small_job

if TYPE_CHECKING:
    from pathlib import Path

    from ltm_platform.events import Event
    from ltm_platform.job import JobSpec

    from .conftest import StartRun
    from .small_run import Kept, SmallRun

# Everything that draws random numbers or keeps a state: augmentation, drop path, mixing, momentum,
# the average and the bound. 12 steps an epoch; checkpoints after steps 5, 10, 12, 15, 20 and 24.
JOB: dict[str, Any] = {
    "model": MODEL | {"drop_path": 0.2},
    "recipe": {
        "epochs": 2,
        "global_batch": 4,
        "lr": 1e-3,
        "warmup_epochs": 0.5,
        "ema_decay": 0.6,
        "ib": {"warmup": 0.5},
        "mix": {"mixup": 0.8, "cutmix": 1.0},
    },
    "checkpoint": {"every_steps": 5},
}
METHODS: dict[str, dict[str, Any]] = {
    "ltm": {"model__elastic": (0.4, 1.0), "model__compression_ratio": None},
    "s2vite": {
        "model__method": "s2vite",
        "model__options": {"update_every": 4, "share": 0.5},
    },
    "savit": {"model__method": "savit", "model__options": {"images": 40}},
}


def job_of(method: str) -> JobSpec:
    return small_job(JOB, **METHODS[method])


def assert_same(one: Kept, other: Kept) -> None:
    """Two checkpoints hold the same but for times."""
    assert one.taken.tensors.keys() == other.taken.tensors.keys()
    for file, tensors in one.taken.tensors.items():
        assert tensors.keys() == other.taken.tensors[file].keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, other.taken.tensors[file][name]), f"{file}: {name}"
    assert one.taken.random["python"] == other.taken.random["python"]
    assert torch.equal(one.taken.random["torch"], other.taken.random["torch"])


def untimed(events: list[Event], after: int) -> list[Progress]:
    """Metrics of the steps after step ``after``, without what the clock has a say in."""
    told = [one for one in events if isinstance(one, Progress) and one.step > after]
    kept = []
    for one in told:
        of_time = ("train/images_per_s", "time/", "memory/")
        metrics = {k: v for k, v in one.metrics.items() if not k.startswith(of_time)}
        if metrics:
            kept.append(replace(one, metrics=metrics, time_ms=0))
    return kept


@pytest.mark.parametrize("method", fast_only(METHODS, ["ltm"]))
def test_training_goes_on_to_the_bit(start_run: StartRun, tmp_path: Path, method: str) -> None:
    job = job_of(method)
    undisturbed = start_run(job, FolderContext(tmp_path / "whole"))
    undisturbed.train()
    kept = undisturbed.context.kept
    assert undisturbed.context.kept_steps == [5, 10, 12, 15, 20, 24]
    for index, start in enumerate(kept[:4]):
        context = FolderContext(tmp_path / f"resumed-{index}", start=start.folder)
        resumed = start_run(job, context)
        resumed.train()
        for mine, its in zip(context.kept, kept[index + 1 :], strict=True):
            assert_same(mine, its)
        after = start.taken.steps_done
        assert untimed(resumed.events, after) == untimed(undisturbed.events, after)


def test_training_goes_on_to_the_bit_beside_images_that_cannot_be_decoded(
    start_run: StartRun, tmp_path: Path
) -> None:
    job = small_job(JOB, data__path=damaged_digits(), data__allow_bad=0.07)
    undisturbed = start_run(job, FolderContext(tmp_path / "whole"))
    undisturbed.train()
    kept = undisturbed.context.kept
    context = FolderContext(tmp_path / "resumed", start=kept[0].folder)
    start_run(job, context).train()
    for mine, its in zip(context.kept, kept[1:], strict=True):
        assert_same(mine, its)


def test_a_run_that_goes_on_says_where_and_repeats_what_may_be_lost(
    start_run: StartRun, tmp_path: Path
) -> None:
    job = job_of("ltm")
    first = start_run(job, FolderContext(tmp_path / "first"))
    first.train()
    within = first.context.kept[3]
    resumed = start_run(job, FolderContext(tmp_path / "resumed", start=within.folder))
    resumed.trainer.restore()
    started, *replayed = resumed.events
    assert started == Started(2, 1, 24, 15, "cpu", 1)
    assert resumed.trainer.steps_done == 15
    known = {(one.step, "val/top1" in one.metrics) for one in replayed}  # type: ignore[union-attr]
    assert known == {(step, False) for step in range(1, 16)} | {(12, True)}
    sent = {one.time_ms for one in first.events if isinstance(one, Progress)}
    assert {one.time_ms for one in replayed} <= sent  # type: ignore[union-attr]


def test_a_run_that_was_stopped_goes_on_to_the_bit(start_run: StartRun, tmp_path: Path) -> None:
    job = job_of("ltm").replace("checkpoint.every_steps", None)
    undisturbed = start_run(job, FolderContext(tmp_path / "whole"))
    undisturbed.train()
    stopped = start_run(job, FolderContext(tmp_path / "stopped"))
    stopped.context.stop_requested = True
    with pytest.raises(Stopped):
        stopped.train()
    (checkpoint,) = stopped.context.kept
    resumed = start_run(job, FolderContext(tmp_path / "resumed", start=checkpoint.folder))
    ended = resumed.train()
    assert [(type(one), one.step) for one in ended] == [(EpochEnded, 12), (EpochEnded, 24)]
    assert_same(resumed.context.kept[-1], undisturbed.context.kept[-1])


def test_only_a_new_run_looks_at_the_data_before_it_trains(
    start_run: StartRun, tmp_path: Path
) -> None:
    """savit scores the network on some images, once."""
    job = small_job(JOB, model__method="savit", model__options={"images": 8})
    scored: list[SmallRun] = []

    def run_from(name: str, start: Path | None) -> SmallRun:
        run = start_run(job, FolderContext(tmp_path / name, start=start))
        hook = run.components.engine.module.register_forward_hook(lambda *_: scored.append(run))
        run.trainer.restore()
        hook.remove()
        return run

    first = run_from("first", None)
    assert len(scored) == 2  # micro-batches of four
    list(first.trainer.epochs())
    resumed = run_from("resumed", first.context.kept[0].folder)
    assert resumed not in scored
    list(resumed.trainer.epochs())
    assert_same(resumed.context.kept[-1], first.context.kept[-1])
    assert resumed.model.plan == first.model.plan


def test_a_finished_run_has_nothing_left_to_train(start_run: StartRun, tmp_path: Path) -> None:
    job = job_of("ltm")
    first = start_run(job, FolderContext(tmp_path / "first"))
    first.train()
    resumed = start_run(
        job, FolderContext(tmp_path / "resumed", start=first.context.kept[-1].folder)
    )
    assert resumed.train() == []
    assert resumed.context.kept == []
