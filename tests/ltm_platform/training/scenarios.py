"""What ranks do with the real Trainer, for the tests of several ranks (see `RankPool`)."""

from __future__ import annotations

from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from safetensors.torch import save_file

from ltm_platform.events import ImagesLeftOut
from ltm_platform.models import create_model
from ltm_platform.training.engine.weights import (
    copy_zeros,
    gather_weights,
    shards,
    weights_are_finite,
)
from ltm_platform.training.measurement.evaluation import evaluate

from .reference import score_plainly, train_plainly
from .small_run import (
    CLASSES,
    MODEL,
    FolderContext,
    SmallRun,
    after_each,
    damaged_digits,
    small_job,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from ltm_platform.job import JobSpec

Seen = dict[str, Any]

EMA_DECAY = 0.6
CLIP_GRAD = 2.0
RECIPE: dict[str, Any] = {
    # Three accumulated steps an epoch, in the first with cross-entropy alone.
    "epochs": 2,
    "global_batch": 16,
    "micro_batch": 4,
    # SGD, so that a gradient of the wrong size shows; the largest are clipped.
    "optimizer": "sgd",
    "lr": 0.05,
    "warmup_epochs": 1,
    "clip_grad": CLIP_GRAD,
    "ema_decay": EMA_DECAY,
    "ib": {"warmup": 0.5, "weight": 1.0},
    # One with which no feature lies as close to two clusters as float noise is large.
    "seed": 2,
}
BATCH_NORM_MODEL = {"backbone": "efficientvit_b0", "method": "none", "image_size": 32}


def plain_job(stage: int = 0, **changes: Any) -> JobSpec:
    """What most scenarios train."""
    values = {"model": MODEL, "recipe": RECIPE, "engine": {"zero_stage": stage}}
    return small_job(values, **changes)


def damaged_job() -> JobSpec:
    """Three of 48 training images and one of 21 validation images cannot be decoded."""
    bad = {"data__path": damaged_digits(), "data__allow_bad": 0.07}
    return plain_job(1, recipe__ib__weight=0.0, **bad)


def sync_bn_job() -> JobSpec:
    # A small rate and few steps: each makes ten times as much of a difference, in a new network.
    recipe = {"epochs": 1, "global_batch": 16, "optimizer": "sgd", "lr": 5e-4, "sync_bn": True}
    return small_job({"model": BATCH_NORM_MODEL, "recipe": recipe})


def buckets_job() -> JobSpec:
    """Gradients of several buckets; at ratio 1 the mask has no part in the loss and no gradient."""
    model = MODEL | {"backbone": "vit_tiny_patch16_224", "compression_ratio": 1.0}
    recipe = RECIPE | {"lr": 5e-3, "weight_decay": 0.1, "ib": {"weight": 0.0}, "ema_decay": None}
    return small_job({"model": model, "recipe": recipe, "engine": {"zero_stage": 0}})


def fp16_job(stage: int) -> JobSpec:
    """Its first epoch alone: a CPU takes its time for fp16."""
    # DeepSpeed asks the CPU for matrix units that work in fp16; torch can do without.
    get_accelerator().is_fp16_supported = lambda: True
    return plain_job(stage, engine__precision="fp16", recipe__epochs=1)


@contextmanager
def everything_job(**changes: Any) -> Iterator[JobSpec]:
    """A job that uses what the recipe offers, most of it at once."""
    recipe = RECIPE | {
        "optimizer": "adamw",
        "lr": 2e-3,
        "layer_decay": 0.7,
        "freeze": ["patch_embed", "*.norm1.bias"],
        "mix": {"mixup": 0.8, "cutmix": 1.0},
    }
    engine = {"channels_last": True, "grad_checkpointing": True}
    with TemporaryDirectory() as folder:
        weights = Path(folder) / "teacher.safetensors"
        torch.manual_seed(1)
        plain = small_job({"model": MODEL | {"method": "none", "compression_ratio": None}})
        save_file(create_model(plain, CLASSES).state_dict(), weights)
        teacher = {"teacher": MODEL["backbone"], "checkpoint": str(weights), "temperature": 2.0}
        values = {"model": MODEL, "recipe": recipe | {"distill": teacher}, "engine": engine}
        yield small_job(values, **changes)


@contextmanager
def ready(job: JobSpec) -> Iterator[SmallRun]:
    """This rank's Trainer, which keeps its checkpoints as long as the block lasts."""
    rank, workers = dist.get_rank(), dist.get_world_size()
    with TemporaryDirectory() as folder:
        context = FolderContext(Path(folder), rank, workers)
        with closing(SmallRun(job, context)) as run:
            yield run


def parameters(run: SmallRun) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in run.model.named_parameters()}


def finish(run: SmallRun) -> Seen:
    """Train to the end."""
    stage = run.components.engine.zero_optimization_stage()
    seen: Seen = {"start": parameters(run)} if stage < 3 else {}
    seen["epochs"] = [ended.metrics for ended in run.train()]
    if stage < 3:
        seen["end"] = parameters(run)
    return seen | {"losses": run.losses, "skipped": run.components.engine.skipped_steps}


# --- scenarios


def plain() -> Seen:
    return train_plainly(plain_job())


def plain_everything() -> Seen:
    with everything_job() as job:
        return train_plainly(job)


def plain_sync_bn() -> Seen:
    return train_plainly(sync_bn_job())


def losses(stage: int) -> Seen:
    with ready(plain_job(stage)) as run:
        return finish(run)


def sync_bn() -> Seen:
    with ready(sync_bn_job()) as run:
        return finish(run)


def shared_bn() -> Seen:
    """Half of the micro-batch for each of two workers, which share its statistics."""
    job = sync_bn_job().replace("recipe.sync_bn", False).replace("recipe.micro_batch", 16)
    with ready(job) as run:
        return finish(run)


def buckets() -> Seen:
    with ready(buckets_job()) as run:
        return finish(run)


def everything(stage: int, micro_batch: int) -> Seen:
    changes = {"recipe__micro_batch": micro_batch, "engine__zero_stage": stage}
    with everything_job(**changes) as job, ready(job) as run:
        return finish(run)


def compiled() -> Seen:
    """A compiled network, but not turned into machine code, which takes minutes."""
    with ready(plain_job(engine__compile=True)) as run:
        assert run.components.engine.module._compiled_call_impl is not None
        run.components.engine.module.compile(backend="eager")
        return finish(run)


def fp16(stage: int) -> Seen:
    with ready(fp16_job(stage)) as run:
        return finish(run)


def overflow() -> Seen:
    """The loss is scaled so far up that no step is free of overflow."""
    with ready(fp16_job(1)) as run:
        run.components.engine.optimizer.loss_scaler.cur_scale = 2.0**60
        return finish(run) | {"told": run.context.kept[-1].metrics["train/skipped_steps"]}


def padded() -> Seen:
    """Shards at stage 3, whose padding is memory with anything in it: here, what is no number."""
    with ready(plain_job(3)) as run:
        engine: Any = run.components.engine
        padding = 0
        for parameter in engine.module.parameters():
            shard = parameter.ds_tensor.data
            rest = shard[max(0, parameter.ds_numel - engine.global_rank * shard.numel()) :]
            padding += rest.numel()
            rest.fill_(torch.nan)
        finite = weights_are_finite(engine)
        weights = [shard.numel() for shard in shards(engine)]
        return {"padding": padding, "finite": finite, "weights": sum(weights)}


def zeroed(stage: int) -> Seen:
    """Rows of a weight that become 0 between two steps, and hardly learn from then on."""
    with ready(plain_job(stage, recipe__lr=1e-9)) as run:
        weight = run.model.blocks[0].mlp.fc1.weight
        with torch.no_grad():
            weight[3:200] = 0
        copy_zeros(run.components.engine, [weight])
        return finish(run)


def structured(method: str, stage: int) -> Seen:
    """A method that removes heads and units: what stays after each step."""
    options = {"savit": {"images": 32}, "s2vite": {"update_every": 1, "share": 0.5}}[method]
    job = plain_job(stage, model__method=method, model__options=options)
    with ready(job) as run:
        gated = run.model.gated
        kept: list[Tensor] = []

        def note() -> None:
            kept.append(torch.cat([gate.kept for _, gate in gated]))

        after_each(run.components.bottleneck, "sync", note)
        seen = finish(run)
        weights = gather_weights(run.components.engine)
        return seen | {"kept": kept, "weights": weights, "plan": run.model.plan}


def made_for_a_plan(method: str, stage: int) -> Seen:
    """A method whose weights a plan shapes: losses, and the weights of the whole network."""
    changes = {"model__method": method, "recipe__ib__weight": 0.0, "recipe__lr": 0.005}
    with ready(plain_job(stage, **changes)) as run:
        seen = finish(run)
        return seen | {"weights": gather_weights(run.components.engine), "plan": run.model.plan}


def plain_damaged() -> Seen:
    return train_plainly(damaged_job())


def damaged() -> Seen:
    """Losses and scores, and what was sent of images that cannot be decoded."""
    with ready(damaged_job()) as run:
        top1 = [ended.metrics["val/top1"] for ended in run.train()]
        told = [event.images for event in run.events if isinstance(event, ImagesLeftOut)]
        return {"losses": run.losses, "told": told, "top1": top1}


def elastic(stage: int, seed: int, offload: str = "none") -> Seen:
    """A ratio that changes: which steps merge, and the weights of the whole network at the end."""
    model = {"backbone": "swin_nano_patch2_window4_32", "elastic": (0.75, 1.0), "image_size": 32}
    recipe = RECIPE | {"seed": seed, "lr": 0.01, "weight_decay": 0.1}
    engine = {"zero_stage": stage, "offload": offload}
    with ready(small_job({"model": model, "recipe": recipe, "engine": engine})) as run:
        merged: list[bool] = []
        after_each(run.components.bottleneck, "share", lambda: merged.append(bool(run.model.plan)))
        seen = finish(run)
        weights = gather_weights(run.components.engine)
        return seen | {"merged": merged, "weights": weights}


def validated(stage: int) -> Seen:
    return _validated(plain_job(stage, checkpoint__every_steps=1))


def validated_batch_norm() -> Seen:
    values = {"model": BATCH_NORM_MODEL, "recipe": RECIPE, "engine": {"zero_stage": 0}}
    return _validated(small_job(values))


def _validated(job: JobSpec) -> Seen:
    """Weights, averages and scores between two epochs."""
    with ready(job) as run:
        engine, ema = run.components.engine, run.components.ema
        assert ema is not None
        first = gather_weights(engine)
        run.trainer.restore()
        epochs = run.trainer.epochs()
        ended = next(epochs)
        kept = run.context.kept
        confusion = torch.zeros(CLASSES, CLASSES, dtype=torch.int64)
        seen: Seen = {
            "told": ended.metrics,
            "weights": [first, *(one.weights for one in kept)],
            "averages": [one.average for one in kept],
            "average elements": sum(shard.numel() for shard in ema._average),
            "scores": evaluate(
                engine, run.components.val_loader, run.components.to_network, confusion
            ),
            "confusion": confusion,
        }
        if engine.zero_optimization_stage() < 3:
            state = run.model.state_dict()
            seen["state dict"] = {name: tensor.clone() for name, tensor in state.items()}
        with ema.applied():
            seen["average"] = gather_weights(engine)
            seen["average scores"] = evaluate(
                engine, run.components.val_loader, run.components.to_network
            )
        seen["restored"] = gather_weights(engine)
        seen["restored scores"] = evaluate(
            engine, run.components.val_loader, run.components.to_network
        )
        if run.context.rank == 0:
            seen["plain scores"] = score_plainly(job, kept[-1].weights)
            seen["plain average scores"] = score_plainly(job, kept[-1].average)
        list(epochs)
        return seen | {"losses": run.losses}
