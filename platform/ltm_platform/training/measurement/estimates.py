"""What training takes of a GPU, of the network and of the storage, told before it starts.

Model states are counted as this platform's engine keeps them, and beside that stands what
DeepSpeed's own estimators say, which assume half precision with fp32 copies. Activations are
measured. All are lower bounds: buffers and fragments come on top.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltm_platform.compat.deepspeed_engine import estimated_states

if TYPE_CHECKING:
    from ltm_platform.job import BatchPlan, JobSpec

STAGES = (0, 1, 2, 3)
FP32 = 4  # bytes
FP32_COPIES = 2
"""Of the weights and of their gradients, which the optimizer works on from stage 1."""
MOMENTS = 2
"""Tensors that AdamW keeps for each weight; some optimizers keep fewer."""
RANDOM_STATE_BYTES = 16_000
"""Of one rank in a checkpoint: its generators and its manifest."""
SAMPLE = (2, 4)
"""Images in the two steps from which the activations of one image follow."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes a GPU at one ZeRO stage, activations left out."""

    stage: int
    states: int
    """Weights, gradients, optimizer and moving average, as the engine keeps them."""
    offloaded: int | None
    """The same with `engine.offload`; there is none at stage 0."""
    host: int | None
    """What that puts into the CPU's memory, bytes a worker."""
    deepspeed: int | None
    """DeepSpeed's estimate; it has none below stage 2."""
    deepspeed_offloaded: int | None
    """DeepSpeed's, with `engine.offload`."""


def memory(
    job: JobSpec, parameters: int, largest_layer: int, workers: int, nodes: int
) -> list[Memory]:
    """Bytes a GPU at every stage; ``parameters`` and those of the largest layer.

    What is offloaded is what the job says at its own stage, and at the others all that can be.
    """
    half, ema = job.engine.precision == "fp16", job.recipe.ema_decay is not None
    rows = []
    for stage in STAGES:
        offload = "all" if stage == 3 else "optimizer"
        if stage == job.engine.zero_stage and job.engine.offload != "none":
            offload = job.engine.offload
        offloaded = host = None
        if stage:
            offloaded = model_states(
                parameters, stage, workers, half=half, ema=ema, offload=offload
            )
            host = host_states(parameters, stage, workers, half=half, ema=ema, offload=offload)
            if offload == "all":
                offloaded += largest_layer * (FP32 // 2 if half else FP32)
        plain, theirs = _deepspeed(
            parameters, largest_layer, stage, workers, nodes, weights=offload == "all"
        )
        engine = job.engine.model_copy(update={"zero_stage": stage, "offload": "none"})
        states = model_states(parameters, engine.stage_of(workers), workers, half=half, ema=ema)
        rows.append(Memory(stage, states, offloaded, host, plain, theirs))
    return rows


def model_states(
    parameters: int, stage: int, workers: int, *, half: bool, ema: bool, offload: str = "none"
) -> int:
    """Bytes a GPU of weights, gradients, optimizer and moving average.

    Stage 1 shards the optimizer with its fp32 copies, 2 the gradients too, 3 the weights with
    their average too. ``offload`` takes the optimizer, and with it shared gradients, or all away.
    """
    if offload == "all":
        return 0
    weight = gradient = FP32 // 2 if half else FP32
    average = FP32 if ema else 0
    if stage == 0:
        return parameters * (weight + gradient + MOMENTS * FP32 + average)
    kept, shared = weight + gradient + average, MOMENTS * FP32 + FP32_COPIES * FP32
    if stage >= 2:
        kept, shared = kept - gradient, shared + gradient
    if offload == "optimizer":
        shared = 0
    if stage == 3:
        kept, shared = 0, shared + weight + average
    return parameters * kept + parameters * shared // workers


def host_states(
    parameters: int, stage: int, workers: int, *, half: bool, ema: bool, offload: str
) -> int:
    """Bytes a worker in the CPU's memory, of what ``offload`` takes from the GPU."""
    weight = FP32 // 2 if half else FP32
    shared = (MOMENTS + FP32_COPIES) * FP32
    if stage < 3:
        shared += weight  # on its way back to the GPU
    if offload == "all":
        shared += weight + (FP32 if ema else 0)
    return parameters * shared // workers


def _deepspeed(
    parameters: int, largest_layer: int, stage: int, workers: int, nodes: int, *, weights: bool
) -> tuple[int | None, int | None]:
    """Bytes a GPU, without and with offload; ``weights`` too."""
    if stage < 2:
        return None, None
    gpus_per_node = max(1, workers // nodes)
    return estimated_states(parameters, largest_layer, stage, gpus_per_node, nodes, weights=weights)


def activations(job: JobSpec, num_classes: int) -> int:
    """Bytes of one image's activations, measured in steps of a few images on the CPU."""
    import torch

    from ltm_platform.training.measurement.micro_batch import activation_bytes, training_step

    if job.engine.precision == "auto":  # left open for GPUs alone, which have bf16
        job = job.replace("engine.precision", "bf16")
    # a CPU without units for bf16 takes several times as long for the backward pass
    again = job.engine.grad_checkpointing
    step = training_step(job, num_classes, torch.device("cpu"), backward=again)
    few, more = (activation_bytes(step, size) for size in SAMPLE)
    return (more - few) // (SAMPLE[1] - SAMPLE[0])


def resolved_config(job: JobSpec, batch: BatchPlan) -> dict | None:
    """What DeepSpeed is told; None without ZeRO, where it takes no part."""
    from ltm_platform.training.engine.build import deepspeed_config

    return deepspeed_config(job, batch) if job.engine.stage_of(batch.workers) else None


def sent_bytes(
    parameters: int, stage: int, workers: int, *, accumulation: int = 1, half: bool = False
) -> int:
    """Bytes that a GPU sends in one optimizer step, by the ring algorithms of NCCL.

    An all-reduce is a reduce-scatter and an all-gather, each of which sends all but one share.
    Stages 0 and 1 reduce at the end of an accumulation, 2 and 3 after every micro-batch; 3 gathers
    the weights for the forward and again for the backward pass.
    """
    size = FP32 // 2 if half else FP32
    rounds = {0: 2, 1: 2, 2: accumulation + 1, 3: 3 * accumulation}[stage]
    return rounds * parameters * size * (workers - 1) // workers


def checkpoint_bytes(parameters: int, workers: int, *, ema: bool, statistics: int = 0) -> int:
    """Weights, their moving average and the optimizer, each whole, and every rank's chance.

    ``statistics``: bytes of those of the information bottleneck.
    """
    copies = 1 + MOMENTS + (1 if ema else 0)
    return copies * FP32 * parameters + statistics + RANDOM_STATE_BYTES * workers
