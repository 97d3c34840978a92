"""What an optimizer step of the real Trainer does, and in which order."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch

import ltm
from ltm_platform.events import Decided, EpochEnded, Progress, Started
from ltm_platform.training.recipe.mixing import Mixer

from .small_run import CLASSES, MODEL, TRAIN_IMAGES, FolderContext, after_each, small_job

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from .conftest import StartRun
    from .small_run import SmallRun

RECIPE: dict[str, Any] = {"epochs": 2, "global_batch": 8, "optimizer": "sgd", "lr": 0.02}
JOB = {"model": MODEL, "recipe": RECIPE}
STEPS = 2 * TRAIN_IMAGES // 8


def forwarded(run: SmallRun) -> list[Tensor]:
    """The batches that the network will see in training, as a list that grows."""
    seen: list[Tensor] = []

    def note(module: torch.nn.Module, args: tuple[Tensor, ...]) -> None:
        if module.training:
            seen.append(args[0].clone())

    run.components.engine.module.register_forward_pre_hook(note)
    return seen


# --- the order


def test_ranks_share_before_the_last_backward_and_sync_after_the_step(
    start_run: StartRun, context: FolderContext
) -> None:
    """What ranks tell each other travels while backward computes; nothing waits for it before."""
    job = small_job(JOB, recipe__micro_batch=4, recipe__ema_decay=0.5, recipe__epochs=1)
    run = start_run(job, context)
    its, log = run.components, list[str]()
    its.engine.module.register_forward_hook(lambda *_: log.append("forward"))
    last_layer = run.model.head.weight
    last_layer.register_post_accumulate_grad_hook(lambda _: log.append("gradient"))
    # the optimizer that DeepSpeed drives, without ZeRO the torch one
    its.engine.optimizer.register_step_post_hook(lambda *_: log.append("update"))
    after_each(its.bottleneck, "share", partial(log.append, "share"))
    after_each(its.bottleneck, "sync", partial(log.append, "sync"))
    after_each(its.ema, "update", partial(log.append, "average"))
    run.trainer.restore()
    epochs = run.trainer.epochs()
    next(epochs)
    step = ["forward", "gradient", "forward", "share", "gradient", "update", "sync", "average"]
    trained = log[: STEPS // 2 * len(step)]
    assert trained == step * (STEPS // 2)
    assert set(log[len(trained) :]) == {"forward"}  # validation


def test_events_tell_every_step_and_every_epoch(
    start_run: StartRun, context: FolderContext
) -> None:
    run = start_run(small_job(JOB), context)
    ended = run.train()
    started = run.events[0]
    assert started == Started(2, 0, STEPS, 0, "cpu", 1)
    assert list(run.steps) == list(range(1, STEPS + 1))
    assert [(one.step, one.epoch) for one in ended] == [(6, 0), (12, 1)]
    assert [one for one in run.events if isinstance(one, EpochEnded)] == ended
    for one in ended:
        assert one.metrics.keys() >= {"val/top1", "val/top5", "val/loss", "train/images_per_s"}
        assert one.metrics.keys() >= {"ib/mi_input", "ib/mi_label", "ib/loss"}
        # told after all steps of its epoch
        before = run.events[: run.events.index(one)]
        told = [event.step for event in before if isinstance(event, Progress)]
        assert told == sorted(told)
        assert max(told) == one.step


def test_an_epoch_tells_how_strong_the_bounds_gradient_is(
    start_run: StartRun, tmp_path: Path
) -> None:
    told, losses = [], []
    for weight in (0.0, 0.1, 0.2):
        context = FolderContext(tmp_path / str(weight))
        run = start_run(small_job(JOB, recipe__ib={"warmup": 1.0, "weight": weight}), context)
        told.append([one.metrics.get("train/ib_grad_ratio") for one in run.train()])
        losses.append(run.losses)
    assert told[0] == [None, None]
    assert told[1][0] > 0
    assert told[2] == pytest.approx([2 * ratio for ratio in told[1]])
    assert losses[0] == losses[1] == losses[2], "to measure it changes nothing"


def test_the_bound_joins_the_loss_after_its_warmup(
    start_run: StartRun, context: FolderContext
) -> None:
    job = small_job(JOB, recipe__ib={"warmup": 0.5, "weight": 2.0})
    run = start_run(job, context)
    run.train()
    total, cross_entropy, bound = torch.tensor(run.losses).T
    half = STEPS // 2
    assert torch.equal(total[:half], cross_entropy[:half])
    torch.testing.assert_close(total[half:], (cross_entropy + 2 * bound)[half:])
    assert (bound[half:] != 0).all()


def test_the_rate_warms_up_and_falls_along_a_cosine(
    start_run: StartRun, context: FolderContext
) -> None:
    run = start_run(small_job(JOB, recipe__warmup_epochs=0.5), context)
    run.train()
    rates = torch.tensor([metrics["train/lr"] for metrics in run.steps.values()])
    falling = torch.linspace(0, torch.pi, STEPS - 3 + 1)[:-1]
    expected = torch.cat([torch.arange(3) / 3, (1 + falling.cos()) / 2])
    torch.testing.assert_close(rates, 0.02 * expected)


# --- accumulation


def test_accumulated_micro_batches_are_the_whole_batch(start_run: StartRun, tmp_path: Path) -> None:
    runs = []
    for micro_batch in (8, 4):
        # soft, for a feature as near to two centroids else goes to either by noise alone
        bound = {"weight": 0.0, "beta": 0.1}
        job = small_job(JOB, recipe__micro_batch=micro_batch, recipe__ib=bound)
        context = FolderContext(tmp_path / str(micro_batch))
        runs.append(start_run(job, context))
        runs[-1].train()
    whole, accumulated = runs
    assert [run.components.batch.accumulation for run in runs] == [1, 2]
    losses, expected = (torch.tensor(run.losses) for run in (accumulated, whole))
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-4)
    weights = [run.context.kept[-1].weights for run in runs]
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-5)


def test_the_bound_of_accumulated_micro_batches_joins_the_loss(
    start_run: StartRun, context: FolderContext
) -> None:
    job = small_job(JOB, recipe__micro_batch=4, recipe__ib={"warmup": 0.0, "weight": 2.0})
    run = start_run(job, context)
    run.train()
    total, cross_entropy, bound = torch.tensor(run.losses).T
    torch.testing.assert_close(total, cross_entropy + 2 * bound)
    assert (bound != 0).all()


def test_the_micro_batch_that_fits_is_decided_and_told(
    start_run: StartRun, context: FolderContext
) -> None:
    run = start_run(small_job(JOB, recipe__micro_batch="auto"), context)
    batch = run.components.batch
    assert (batch.micro_batch, batch.accumulation) == (8, 1)
    told = run.events[0]
    assert isinstance(told, Decided)
    assert (told.name, told.value) == ("micro_batch", "8")
    assert "batch 8 = 8 x 1 accumulated x 1 workers" in told.sentence


def test_trying_micro_batches_leaves_no_trace_in_the_weights(
    start_run: StartRun, tmp_path: Path
) -> None:
    kept = []
    for micro_batch in (None, "auto"):
        context = FolderContext(tmp_path / str(micro_batch))
        run = start_run(small_job(JOB, recipe__micro_batch=micro_batch), context)
        run.train()
        kept.append(context.kept[-1].weights)
    assert all(torch.equal(kept[0][name], kept[1][name]) for name in kept[0])


# --- elastic training


def test_every_step_has_the_ratio_that_follows_from_seed_and_step(
    start_run: StartRun, context: FolderContext
) -> None:
    job = small_job(JOB, model__compression_ratio=None, model__elastic=(0.3, 1.0), recipe__seed=3)
    run = start_run(job, context)
    usual = dict(run.model.plan)
    plans: dict[bool, list[dict[str, Any]]] = {True: [], False: []}

    def note(module: torch.nn.Module, _: Any) -> None:
        plans[module.training].append(dict(run.model.plan))

    run.components.engine.module.register_forward_pre_hook(note)
    run.train()
    expected = []
    for step in range(STEPS):
        run.model.set_compression(ltm.elastic_ratio((0.3, 1.0), step, 3))
        expected.append(dict(run.model.plan))
    assert plans[True] == expected
    assert len({str(plan) for plan in expected}) > STEPS // 2
    assert plans[False]
    assert all(plan == usual for plan in plans[False])  # in validation


def test_an_elastic_network_has_its_plan_back_after_an_epoch(
    start_run: StartRun, context: FolderContext
) -> None:
    run = start_run(small_job(JOB, model__elastic=(0.3, 0.5)), context)
    usual = dict(run.model.plan)
    run.trainer.restore()
    for _ in run.trainer.epochs():
        assert dict(run.model.plan) == usual


# --- mixing


def test_all_micro_batches_of_a_step_are_mixed_alike_until_the_epoch_that_ends_it(
    start_run: StartRun, context: FolderContext
) -> None:
    job = small_job(JOB, recipe__micro_batch=4, recipe__mix={"mixup": 0.8, "until": 0.5})
    run = start_run(job, context)
    seen = forwarded(run)
    run.train()
    loader, mixer = run.components.train_loader, Mixer(job.recipe, CLASSES)
    plain = [batch for epoch in range(2) for batch in loader.epoch(epoch)]
    half = len(plain) // 2
    for index, (images, labels, changes) in enumerate(plain):
        images = run.components.to_network(images, changes)
        mixed, _ = mixer(images.clone(), labels, index // 2, epoch=index // half)
        assert torch.equal(seen[index], mixed), index
        assert torch.equal(mixed, images) == (index >= half), index


# --- what stays, and what follows the weights


def test_frozen_parts_keep_their_weights_and_no_others(
    start_run: StartRun, context: FolderContext
) -> None:
    frozen = ["patch_embed", "*.norm1.bias"]
    run = start_run(small_job(JOB, recipe__freeze=frozen, recipe__optimizer="adamw"), context)
    start = {name: weight.detach().clone() for name, weight in run.model.named_parameters()}
    run.train()
    kept = {name for name, w in run.model.named_parameters() if torch.equal(w, start[name])}
    expected = {n for n in start if n.startswith("patch_embed.") or n.endswith(".norm1.bias")}
    assert kept == expected


def test_the_average_follows_every_step(start_run: StartRun, context: FolderContext) -> None:
    job = small_job(JOB, recipe__ema_decay=0.6, checkpoint__every_steps=1)
    run = start_run(job, context)
    average = {name: weight.clone() for name, weight in run.model.state_dict().items()}
    ended = run.train()
    assert context.kept_steps == list(range(1, STEPS + 1))
    for kept in context.kept:
        for name, weight in kept.weights.items():
            average[name] = 0.6 * average[name] + 0.4 * weight
        torch.testing.assert_close(kept.average, average, rtol=1e-5, atol=1e-7)
    assert not torch.equal(average["head.weight"], context.kept[-1].weights["head.weight"])
    assert all("val/ema_top1" in one.metrics for one in ended)


def test_an_average_changes_nothing_of_the_training(start_run: StartRun, tmp_path: Path) -> None:
    losses = []
    for decay in (None, 0.6):
        job = small_job(JOB, model__drop_path=0.2, recipe__ema_decay=decay)
        run = start_run(job, FolderContext(tmp_path / str(decay)))
        run.train()
        losses.append(run.losses)
        assert bool(run.context.kept[-1].average) == (decay is not None)
    assert losses[0] == losses[1]


def test_a_frozen_batch_norm_keeps_its_statistics_from_the_first_step_on(
    start_run: StartRun, context: FolderContext
) -> None:
    model = {"backbone": "efficientvit_b0", "method": "none", "image_size": 32}
    job = small_job(JOB | {"model": model}, recipe__epochs=2, recipe__freeze=["stem"])
    run = start_run(job, context)
    stem = {name: buffer.clone() for name, buffer in run.model.named_buffers() if "stem" in name}
    assert any(name.endswith("running_mean") for name in stem)
    others = run.model.stages[0].blocks[0].main.inverted_conv.norm.running_mean.clone()
    run.train()
    for name, buffer in stem.items():
        assert torch.equal(dict(run.model.named_buffers())[name], buffer), name
    changed = run.model.stages[0].blocks[0].main.inverted_conv.norm.running_mean
    assert not torch.equal(changed, others)
