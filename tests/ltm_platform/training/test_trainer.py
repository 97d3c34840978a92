"""How the real Trainer ends, and what it stores on the way."""

from __future__ import annotations

from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ltm_platform.errors import UserError
from ltm_platform.events import (
    Decided,
    EpochEnded,
    Event,
    GaveUp,
    Measured,
    Progress,
    StoppedOnRequest,
)
from ltm_platform.storage import locations
from ltm_platform.storage.manifest import CONFUSION_FILE, check
from ltm_platform.training.step_metrics import Diverged
from ltm_platform.training.trainer import Stopped
from ltm_platform.training.worker import train_rank

from .small_run import (
    CLASSES,
    MODEL,
    VAL_IMAGES,
    FolderContext,
    after_each,
    damaged_digits,
    small_job,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from ltm_platform.job import JobSpec

    from .conftest import StartRun
    from .small_run import SmallRun

# 12 steps an epoch, and ranks ask each other after every tenth.
RECIPE: dict[str, Any] = {"epochs": 2, "global_batch": 4, "optimizer": "sgd", "lr": 0.01}
JOB = {"model": MODEL, "recipe": RECIPE, "checkpoint": {"every_steps": None}}
EXPLODING = {"recipe__lr": 10.0}


def events_of(job: JobSpec, context: FolderContext) -> list[Event]:
    """What a worker that trains the job sends to the driver."""
    queue: SimpleQueue[list[Event]] = SimpleQueue()
    config = {"job": job.to_dict(), "cache": str(locations.cache()), "events": queue}
    for _ in train_rank(config, context):
        pass
    events = []
    while not queue.empty():
        events += queue.get()
    return events


def after_step(run: SmallRun, step: int, do: Callable[[], object]) -> None:
    """Call ``do`` when that step is done."""
    after_each(run.components.bottleneck, "sync", lambda: run.trainer.steps_done == step and do())


def poison(weight: Tensor) -> None:
    weight.data.view(-1)[0] = float("nan")


# --- checkpoints


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        (None, [12, 24]),
        (5, [5, 10, 12, 15, 20, 24]),
        (12, [12, 24]),  # once, after validation
        (1000, [12, 24]),
    ],
)
def test_checkpoints_are_kept_every_so_many_steps_and_after_every_epoch(
    start_run: StartRun, context: FolderContext, every: int | None, expected: list[int]
) -> None:
    run = start_run(small_job(JOB, checkpoint__every_steps=every), context)
    ended = run.train()
    assert context.kept_steps == expected
    by_epoch = {one.step: one.metrics for one in ended}
    for kept in context.kept:
        check(kept.folder)
        # those within an epoch have not been validated
        assert kept.metrics == by_epoch.get(kept.taken.steps_done, {})


def test_checkpoints_within_an_epoch_change_nothing_of_it(
    start_run: StartRun, tmp_path: Path
) -> None:
    last = []
    for every in (None, 1):
        context = FolderContext(tmp_path / str(every))
        start_run(small_job(JOB, checkpoint__every_steps=every), context).train()
        last.append(context.kept[-1].weights)
    assert all(torch.equal(last[0][name], last[1][name]) for name in last[0])


def test_an_epochs_checkpoint_has_its_confusion_matrix(
    start_run: StartRun, context: FolderContext
) -> None:
    run = start_run(small_job(JOB, checkpoint__every_steps=10), context)
    within, epoch, *_ = (run.train(), context.kept)[1]
    assert CONFUSION_FILE not in within.taken.tensors
    counts = epoch.taken.tensors[CONFUSION_FILE]["counts"]
    assert counts.shape == (CLASSES, CLASSES)
    assert counts.sum() == VAL_IMAGES
    assert 100 * int(counts.trace()) / VAL_IMAGES == pytest.approx(epoch.metrics["val/top1"])


# --- divergence


def test_training_that_diverges_ends_at_the_next_check_and_stores_nothing(
    start_run: StartRun, context: FolderContext
) -> None:
    run = start_run(small_job(JOB, **EXPLODING), context)
    with pytest.raises(Diverged, match="the loss is not finite at step 6 on rank 0") as end:
        run.train()
    assert "train/ce nan" in str(end.value)
    assert run.trainer.steps_done == 10
    assert list(run.steps) == list(range(1, 11))  # all that was known is sent
    assert context.kept == []


def test_no_checkpoint_is_stored_of_a_loss_that_is_not_finite(
    start_run: StartRun, context: FolderContext
) -> None:
    run = start_run(small_job(JOB, checkpoint__every_steps=2, **EXPLODING), context)
    with pytest.raises(Diverged, match="at step 6 "):
        run.train()
    assert context.kept_steps == [2, 4]


def test_a_weight_that_is_not_finite_is_seen_before_it_is_stored(
    start_run: StartRun, context: FolderContext
) -> None:
    """The last step of an epoch breaks it: no loss tells of it any more."""
    run = start_run(small_job(JOB), context)
    after_step(run, 12, lambda: poison(run.model.head.weight))
    with pytest.raises(Diverged, match="a weight is not finite after step 12"):
        run.train()
    assert context.kept == []


def test_a_gradient_that_is_not_finite_ends_training_at_its_step(
    start_run: StartRun, context: FolderContext
) -> None:
    """DeepSpeed leaves out such a step, where it looks, and would go on."""
    job = small_job(JOB, engine__zero_stage=1, engine__offload="optimizer")
    run = start_run(job, context)
    broken = float("inf")
    scale = {"value": 1.0}
    run.model.head.weight.register_hook(lambda gradient: gradient * scale["value"])
    after_step(run, 2, lambda: scale.update(value=broken))
    before = {}
    after_step(run, 2, lambda: before.update(head=run.model.head.weight.detach().clone()))
    with pytest.raises(Diverged, match="the gradient is not finite at step 3: train/loss"):
        run.train()
    assert torch.equal(run.model.head.weight, before["head"])
    assert list(run.steps) == [1, 2, 3]
    assert context.kept == []


def test_what_the_optimizer_remembers_of_an_infinite_gradient_is_not_stored(
    start_run: StartRun, context: FolderContext
) -> None:
    """Lion steps by the sign: weights and loss stay finite, its momentum is infinite for good."""
    job = small_job(JOB, recipe__optimizer="lion", recipe__lr=1e-4, engine__zero_stage=0)
    run = start_run(job, context)
    scale = {"value": 1.0}
    run.model.head.weight.register_hook(lambda gradient: gradient.sign() * scale["value"])
    after_step(run, 2, lambda: scale.update(value=float("inf")))
    after_step(run, 3, lambda: scale.update(value=1.0))
    with pytest.raises(Diverged, match="the optimizer's state is not finite after step 12"):
        run.train()
    assert context.kept == []


@pytest.mark.usefixtures("only_rank")
def test_the_driver_hears_that_training_gave_up(context: FolderContext) -> None:
    events = events_of(small_job(JOB, **EXPLODING), context)
    *earlier, last = events
    assert isinstance(last, GaveUp)
    assert last.reason.startswith("the loss is not finite at step 6")
    assert not any(isinstance(one, GaveUp | EpochEnded) for one in earlier)


# --- early stop


def test_training_stops_early_when_the_score_gets_no_better(
    start_run: StartRun, context: FolderContext
) -> None:
    job = small_job(JOB, recipe__epochs=5, recipe__lr=1e-9, recipe__early_stop=2)
    run = start_run(job, context)
    assert [one.epoch for one in run.train()] == [0, 1, 2]
    assert context.kept_steps == [12, 24, 36]
    told = run.events[-1]
    assert isinstance(told, Decided)
    assert (told.name, told.value) == ("stopped_after_epoch", "3")
    assert "after epoch 3" in told.sentence
    assert told.sentence.endswith("is that of epoch 1")


def test_patience_outlives_a_resume(start_run: StartRun, tmp_path: Path) -> None:
    job = small_job(JOB, recipe__epochs=5, recipe__lr=1e-9, recipe__early_stop=2)
    first = FolderContext(tmp_path / "first")
    run = start_run(job, first)
    run.trainer.restore()
    epochs = run.trainer.epochs()
    next(epochs)
    next(epochs)
    resumed = start_run(job, FolderContext(tmp_path / "second", start=first.kept[-1].folder))
    assert [one.epoch for one in resumed.train()] == [2]


# --- a request to stop


def test_a_request_within_an_epoch_saves_and_ends_at_the_next_question(
    start_run: StartRun, context: FolderContext
) -> None:
    run = start_run(small_job(JOB), context)
    context.stop_requested = True
    with pytest.raises(Stopped):
        run.train()
    assert run.trainer.steps_done == 10
    assert context.kept_steps == [10]
    assert list(run.steps) == list(range(1, 11))


def test_a_request_during_validation_ends_after_the_epochs_checkpoint(
    start_run: StartRun, context: FolderContext
) -> None:
    run = start_run(small_job(JOB), context)
    run.trainer.restore()
    epochs = run.trainer.epochs()
    next(epochs)
    context.stop_requested = True
    with pytest.raises(Stopped):
        next(epochs)
    assert run.trainer.steps_done == 12
    assert context.kept_steps == [12]


def test_a_request_after_the_last_epoch_comes_too_late(
    start_run: StartRun, context: FolderContext
) -> None:
    run = start_run(small_job(JOB, recipe__epochs=1), context)
    run.trainer.restore()
    epochs = run.trainer.epochs()
    next(epochs)
    context.stop_requested = True
    assert list(epochs) == []


@pytest.mark.usefixtures("only_rank")
def test_the_driver_hears_that_training_stopped_on_request(context: FolderContext) -> None:
    context.stop_requested = True
    events = events_of(small_job(JOB), context)
    assert events[-1] == StoppedOnRequest()
    assert not any(isinstance(one, Measured) for one in events)
    assert context.kept_steps == [10]


# --- a node that is taken away


def test_a_preemption_saves_once_and_training_goes_on(
    start_run: StartRun, context: FolderContext
) -> None:
    run = start_run(small_job(JOB), context)
    context.preempted = True
    ended = run.train()
    assert context.kept_steps == [10, 12, 24]
    assert [one.step for one in ended] == [12, 24]


def test_a_request_to_stop_goes_before_a_preemption(
    start_run: StartRun, context: FolderContext
) -> None:
    run = start_run(small_job(JOB), context)
    context.preempted = context.stop_requested = True
    with pytest.raises(Stopped):
        run.train()
    assert context.kept_steps == [10]


# --- the end


@pytest.mark.usefixtures("only_rank")
def test_a_whole_run_ends_with_what_its_network_costs(context: FolderContext) -> None:
    events = events_of(small_job(JOB, recipe__epochs=1), context)
    last = events[-1]
    assert isinstance(last, Measured)
    assert last.step == 12
    assert last.metrics["bench/latency_ms"] > 0
    assert last.metrics["bench/images_per_s"] > 0
    order = [type(one) for one in events if type(one) is not Progress]
    assert [kind.__name__ for kind in order] == ["Started", "Decided", "EpochEnded", "Measured"]


def test_measuring_leaves_the_network_as_it_is(start_run: StartRun, context: FolderContext) -> None:
    run = start_run(small_job(JOB, recipe__epochs=1), context)
    run.train()
    run.trainer.measure_inference()
    after = run.model.state_dict()
    assert all(torch.equal(after[name], w) for name, w in context.kept[-1].weights.items())


@pytest.mark.usefixtures("only_rank")
def test_closing_a_worker_between_epochs_ends_it(context: FolderContext) -> None:
    """A trial that its scheduler stops."""
    queue: SimpleQueue[list[Event]] = SimpleQueue()
    job = small_job(JOB)
    config = {"job": job.to_dict(), "cache": str(locations.cache()), "events": queue}
    rank = train_rank(config, context)
    assert next(rank).epoch == 0
    rank.close()
    assert context.kept_steps == [12]


# --- images that cannot be decoded


def test_more_images_that_cannot_be_decoded_than_may_be_end_training_by_name(
    start_run: StartRun, context: FolderContext
) -> None:
    run = start_run(small_job(JOB, data__path=damaged_digits(), data__allow_bad=0.05), context)
    with pytest.raises(UserError, match=r"3 of 48 training images, and .* 0\.05 allows 2") as error:
        run.train()
    assert "image 'train/3' of " in str(error.value)


def test_an_image_that_cannot_be_decoded_is_none_of_a_job_that_allows_none(
    start_run: StartRun, context: FolderContext
) -> None:
    run = start_run(small_job(JOB, data__path=damaged_digits()), context)
    with pytest.raises(UserError, match=r"1 of 48 training images, and .* allows 0"):
        run.train()
    assert not context.kept
