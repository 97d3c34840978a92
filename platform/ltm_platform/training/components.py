"""What a rank trains with, built from a job: data, network, engine, loss and averages."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from ltm_platform.data import open_data
from ltm_platform.data.decode import pixel_rule
from ltm_platform.data.loader import EvalLoader, Loader
from ltm_platform.data.pixels import train_pipeline
from ltm_platform.data.pixels.on_device import ToNetwork
from ltm_platform.data.processes import loader_processes
from ltm_platform.data.subset import thinned
from ltm_platform.data.transforms import Augmentation
from ltm_platform.events import Decided
from ltm_platform.models import input_pixels
from ltm_platform.training.engine.build import build_engine, deepspeed_config
from ltm_platform.training.engine.device import set_up, wants_channels_last, with_precision
from ltm_platform.training.engine.weights import ShardedEma
from ltm_platform.training.measurement.evaluation import validation_loader
from ltm_platform.training.measurement.micro_batch import find_micro_batch
from ltm_platform.training.recipe.mixing import Mixer
from ltm_platform.training.recipe.network import build_network, build_objective
from ltm_platform.training.recipe.optimization import build_optimizer, build_schedule

if TYPE_CHECKING:
    from pathlib import Path

    from timm.scheduler import CosineLRScheduler

    from ltm.bottleneck import StreamingBottleneck
    from ltm_platform.data import Dataset
    from ltm_platform.events import Listener
    from ltm_platform.job import BatchPlan, Data, JobSpec
    from ltm_platform.models import Pixels
    from ltm_platform.training.engine.interface import Engine
    from ltm_platform.training.recipe.optimization import Objective
    from ltm_platform.training.worker_context import WorkerContext


def seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - timm draws from the global generator
    torch.manual_seed(seed)


@dataclass(frozen=True, slots=True)
class Components:
    """What a rank trains with."""

    batch: BatchPlan
    num_classes: int
    train_loader: Loader
    val_loader: EvalLoader
    to_network: ToNetwork
    """From what the loaders give to what the engine takes."""
    engine: Engine
    """Around a `Classifier` around the timm model."""
    schedule: CosineLRScheduler
    objective: Objective
    bottleneck: StreamingBottleneck
    """The statistics of the objective, the same on all ranks between steps."""
    mixer: Mixer
    ema: ShardedEma | None


def build_components(
    job: JobSpec, context: WorkerContext, *, cache: Path, send: Listener
) -> Components:
    """Build them. Collective.

    cache: folder where ``digits`` is written once.
    send: hears the micro-batch that was found where ``recipe.micro_batch`` is ``auto``.

    Raises:
        UserError: the data cannot be read, or not even the smallest micro-batch fits.
        ValueError: something of the model does not fit.
    """
    recipe = job.recipe
    set_up(context.device, job.cluster.gpus_per_worker)
    left_open = job.engine.precision == "auto"
    job = with_precision(job, context.device)
    if left_open and context.device.type == "cuda":
        send(_decided_precision(job))
    seed_everything(recipe.seed)
    dataset = open_data(job.data, cache=cache, copying=True)
    num_classes = len(dataset.classes)
    batch = job.batch(context.world_size)
    if recipe.micro_batch == "auto":
        batch = _fitting_batch(job, num_classes, batch, context)
        send(_decided(batch))
        seed_everything(recipe.seed)
    model = build_network(job, num_classes, norm_group=batch.norm_group).model
    pixels = input_pixels(model)
    dataset = _limited(dataset, job.data, batch)
    train_loader, val_loader = _build_loaders(job, dataset, batch, context, pixels)
    optimizer = build_optimizer(model, recipe)
    engine = build_engine(
        model,
        optimizer,
        deepspeed_config(job, batch),
        device=context.device,
        compiled=job.engine.compile,
        channels_last=wants_channels_last(job, model, context.device),
        keeps_tokens=recipe.distill.looks_at_tokens,
    )
    schedule = build_schedule(optimizer, recipe, train_loader.steps(recipe.epochs))
    ema = ShardedEma(engine, recipe.ema_decay) if recipe.ema_decay else None
    objective, bottleneck = build_objective(job, model, num_classes, engine.device)
    return Components(
        batch=batch,
        num_classes=num_classes,
        train_loader=train_loader,
        val_loader=val_loader,
        to_network=ToNetwork(pixels.mean, pixels.std),
        engine=engine,
        schedule=schedule,
        objective=objective,
        bottleneck=bottleneck,
        mixer=Mixer(recipe, num_classes),
        ema=ema,
    )


def _limited(dataset: Dataset, data: Data, batch: BatchPlan) -> Dataset:
    """As many batches of the images, where the job limits them."""
    train, val = dataset.train, dataset.val
    return replace(
        dataset,
        train=thinned(train, data.limited(len(train), batch.global_batch)),
        val=thinned(val, data.limited(len(val), batch.micro_batch * batch.workers)),
    )


def _build_loaders(
    job: JobSpec, dataset: Dataset, batch: BatchPlan, context: WorkerContext, pixels: Pixels
) -> tuple[Loader, EvalLoader]:
    augment = Augmentation(**job.recipe.augment.model_dump())
    processes = loader_processes(
        job.data.loader_workers,
        context.local_world_size,
        use_gpu=context.device.type != "cpu",
    )
    train = Loader(
        dataset.train,
        train_pipeline(augment, pixels.size, pixels.mean, job.data.decode),
        micro_batch=batch.micro_batch,
        accumulation=batch.accumulation,
        rank=context.rank,
        world_size=context.world_size,
        seed=job.recipe.seed,
        workers=processes,
        allow_bad=job.data.allow_bad,
        rule=pixel_rule(job.data),
    )
    val = validation_loader(
        job.data,
        dataset.val,
        pixels,
        batch=batch.micro_batch,
        rank=context.rank,
        world_size=context.world_size,
        workers=processes,
    )
    return train, val


def _fitting_batch(
    job: JobSpec, num_classes: int, whole: BatchPlan, context: WorkerContext
) -> BatchPlan:
    """The micro-batch that fits every rank's memory, and how it adds up to the global batch."""
    micro = find_micro_batch(
        job, num_classes, whole.micro_batch, context.device, context.local_world_size
    )
    return replace(whole, micro_batch=micro, accumulation=whole.micro_batch // micro)


def _decided_precision(job: JobSpec) -> Decided:
    precision = job.engine.precision
    has = "have" if precision == "bf16" else "do not all have"
    return Decided("precision", precision, f"engine.precision is {precision}: the GPUs {has} bf16")


def _decided(batch: BatchPlan) -> Decided:
    micro = batch.micro_batch
    sentence = (
        f"recipe.micro_batch is {micro}, found by trying: batch {batch.global_batch} = "
        f"{micro} x {batch.accumulation} accumulated x {batch.workers} workers"
    )
    return Decided("micro_batch", str(micro), sentence)
