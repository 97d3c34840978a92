"""``recipe.micro_batch: auto``: the largest micro-batch that fits the memory, found at the start.

Every rank tries training steps on its own, without the other ranks, so that one that runs out of
memory leaves nobody waiting; then all take what fits on the one that has least. Tried is the plain
network with its whole optimizer, unless that is offloaded: with ZeRO a rank holds less, so what
fits here fits there.
"""

from __future__ import annotations

import gc
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import psutil
import torch
import torch.distributed as dist
from torch.autograd.graph import saved_tensors_hooks

from ltm_platform.errors import UserError
from ltm_platform.job.batch import micro_batches
from ltm_platform.models import input_pixels
from ltm_platform.training.engine.device import own_precision, wants_channels_last
from ltm_platform.training.engine.interface import Classifier
from ltm_platform.training.recipe.network import build_network, build_objective
from ltm_platform.training.recipe.optimization import build_optimizer

if TYPE_CHECKING:
    from torch import Tensor

    from ltm_platform.job import JobSpec

Step = Callable[[int], None]
"""Trains the network on so many images: forward, backward and update."""

GPU_MARGIN = 0.1
"""Share of a GPU's memory that stays free, for fragments and what libraries take."""
CPU_MARGIN = 0.5
"""Share of a machine's free memory that stays free: others live there, too."""
CPU_OVERHEAD = 2.0
"""Memory of a step on a CPU over that of its activations: their gradients and scratch space."""
ENGINE_COPIES = 4
"""What an engine holds besides, in times the weights: fp32 copy, two buckets, moving average. With
`engine.offload` the copy and the optimizer's state lie in the CPU's memory."""


def find_micro_batch(
    job: JobSpec, num_classes: int, share: int, device: torch.device, ranks_here: int
) -> int:
    """The largest divisor of a rank's ``share`` of the global batch that fits. Collective.

    ranks_here: how many ranks share this machine's memory; on a GPU each has its own.

    Raises:
        UserError: on all ranks, when not even the smallest fits.
    """
    sizes = micro_batches(share, even=job.recipe.mix.enabled)
    step = training_step(job, num_classes, device)
    of_gpu = job.cluster.gpus_per_worker
    fits = fits_gpu(step, device, of_gpu) if device.type == "cuda" else fits_cpu(step, ranks_here)
    return largest(sizes, fits, device)


def largest(sizes: Sequence[int], fits: Callable[[int], bool], device: torch.device) -> int:
    """The largest of ``sizes`` that fits on every rank, by bisection. Collective.

    Raises:
        UserError: on all ranks, when not even the smallest fits.
    """
    count = torch.tensor(bisect_left(sizes, True, key=lambda size: not fits(size)), device=device)
    dist.all_reduce(count, dist.ReduceOp.MIN)
    if not count:
        raise UserError(
            f"recipe.micro_batch is auto, but a step of {sizes[0]} images does not fit the memory "
            f"of every worker: try engine.grad_checkpointing, or a smaller model.image_size"
        )
    return sizes[int(count) - 1]


def fits_gpu(step: Step, device: torch.device, share: float = 1.0) -> Callable[[int], bool]:
    """Whether a training step fits, told by trying it in less memory than there is."""

    def fits(size: int) -> bool:
        torch.cuda.set_per_process_memory_fraction(share * (1 - GPU_MARGIN), device)
        try:
            step(size)
        except torch.OutOfMemoryError:
            return False
        finally:
            torch.cuda.set_per_process_memory_fraction(share, device)
            gc.collect()
            torch.cuda.empty_cache()
        return True

    return fits


def fits_cpu(step: Step, ranks_here: int) -> Callable[[int], bool]:
    """Whether a training step fits, told by two small ones: a CPU does not say that it runs out of
    memory, it kills.
    """
    one, two = (activation_bytes(step, size) for size in (2, 4))
    per_image = (two - one) / 2 * CPU_OVERHEAD
    free = psutil.virtual_memory().available * (1 - CPU_MARGIN) / ranks_here
    return lambda size: size * per_image <= free


def activation_bytes(step: Step, size: int) -> int:
    """What a step keeps for its backward pass, each piece of memory once; weights are among it."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        step(size)
    return sum(kept.values())


def training_step(
    job: JobSpec, num_classes: int, device: torch.device, *, backward: bool = True
) -> Step:
    """A training step of the job with the largest loss, by one rank for itself, on noise.

    backward: or only its forward pass, after which all is kept that the backward pass needs; with
        gradient checkpointing that makes the rest of it.
    """
    job = job.replace("recipe.sync_bn", False)  # which would wait for the other ranks
    model = build_network(job, num_classes).model.to(device)
    pixels = input_pixels(model).size
    objective, _ = build_objective(job, model, num_classes, device)
    optimizer = build_optimizer(model, job.recipe)
    weights = sum(parameter.numel() for parameter in model.parameters())
    offload = job.engine.offload != "none"
    copies = (ENGINE_COPIES - offload) * weights
    held = torch.empty(copies, device=device)
    precision = own_precision(job, device)
    channels_last = wants_channels_last(job, model, device)
    keeps_tokens = job.recipe.distill.looks_at_tokens
    network = Classifier(model, channels_last=channels_last, keeps_tokens=keeps_tokens)
    if job.recipe.consistency.below is not None:
        network.removed_again = 0  # takes the most memory

    def step(size: int) -> None:
        assert held.numel() == copies
        images = torch.randn(size, 3, pixels, pixels, device=device)
        labels = torch.randint(num_classes, (size,), device=device)
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            logits, features, *further = network(images)
        loss, _ = objective(images, labels, logits, features, job.recipe.epochs - 1, *further)
        if not backward:
            return
        loss.backward()
        if not offload:
            optimizer.step()
        optimizer.zero_grad()

    return step
