"""What a job leaves to the device that it trains on, and how that device is set up."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import nn

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from ltm_platform.job import JobSpec

PRECISION = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_FUSED = (torch.optim.Adam, torch.optim.SGD)
"""torch's optimizers (AdamW is an Adam) that update all weights in one pass over memory."""


def set_up(device: torch.device, share: float = 1.0) -> None:
    """On a GPU, as timm's train.py: products of fp32 matrices in TF32, and cuDNN's fastest
    algorithm for every shape, found by trying. As many threads as OMP_NUM_THREADS says, which Ray
    sets for a task, and which torch may have been imported before. Of the whole process.

    share: of the GPU's memory, which this process keeps to.
    """
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdecimal() and int(threads):
        torch.set_num_threads(int(threads))
    if device.type == "cuda":
        if share < 1:
            torch.cuda.set_per_process_memory_fraction(share, device)
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True


def has_bf16(device: torch.device) -> bool:
    """Whether the device is a GPU that computes in bf16. A CPU may be slower in it than in fp32."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def own_precision(job: JobSpec, device: torch.device) -> torch.dtype:
    """Of forward passes on this device, without asking other ranks."""
    precision = job.engine.precision
    if precision == "auto":
        precision = "bf16" if has_bf16(device) else "fp32"
    return PRECISION[precision]


def with_precision(job: JobSpec, device: torch.device) -> JobSpec:
    """The job with the precision that all ranks have. Collective where it is ``auto``."""
    if job.engine.precision != "auto":
        return job
    there = torch.tensor(float(has_bf16(device)), device=device)
    dist.all_reduce(there, dist.ReduceOp.MIN)
    return job.replace("engine.precision", "bf16" if there.item() else "fp32")


def wants_channels_last(job: JobSpec, model: nn.Module, device: torch.device) -> bool:
    """Whether images lie as [height, width, channel] in memory.

    ``auto``: on a GPU, for networks whose convolutions are more than an embedding of patches.
    """
    if job.engine.channels_last != "auto":
        return job.engine.channels_last
    convolutions = sum(isinstance(module, nn.Conv2d) for module in model.modules())
    return device.type == "cuda" and convolutions > 1


def fuse(optimizer: Optimizer) -> None:
    """Where torch has an update in one pass over memory, take that."""
    if isinstance(optimizer, _FUSED):
        for group in optimizer.param_groups:
            group.update(fused=True, foreach=False)
