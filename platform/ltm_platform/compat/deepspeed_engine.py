"""DeepSpeed's engine: which shard of what a rank keeps, and what its state is beside tensors.

``deepspeed.utils.safe_get_full_optimizer_state`` and its kin would not do: they know no stage 0,
no loss scale and no state before the first step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from deepspeed import DeepSpeedEngine
    from torch import Tensor, nn

LOSS_SCALE_KEYS = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
"""What a dynamic loss scaler remembers; a static one has the first alone."""


@dataclass(frozen=True, slots=True)
class Fragment:
    """A part of a parameter whose state this rank keeps.

    At stages 1 to 3 the optimizer sees flat tensors, each the rank's share of many parameters.
    """

    flat: Tensor
    """What the optimizer takes for a parameter: the fp32 master weights."""
    inside: slice
    """Of ``flat``, where the part lies."""
    part: slice
    """Of the flattened parameter, what the part is."""


def own_fragment(engine: DeepSpeedEngine, parameter: Any) -> Fragment | None:
    """Where this rank keeps its part of a parameter; None if it keeps none of it."""
    stage = engine.zero_optimization_stage()
    if stage == 0:
        whole = slice(0, parameter.numel())
        return Fragment(parameter, whole, whole)
    if stage == 3:
        zero = engine.optimizer
        group, offset, size = zero.grad_position[zero.get_param_id(parameter)]
        start = engine.global_rank * size
        size = min(size, parameter.ds_numel - start)  # the last shard is padded
        if size <= 0:
            return None
        flat = zero.fp32_partitioned_groups_flat[group]
        return Fragment(flat, slice(offset, offset + size), slice(start, start + size))
    mapping = parameter._hp_mapping
    if mapping is None:
        return None
    inside, part = mapping.hp_fragment_address, mapping.lp_fragment_address
    return Fragment(
        engine.optimizer.single_partition_of_fp32_groups[mapping.param_group_index],
        slice(inside.start, inside.start + inside.numel),
        slice(part.start, part.start + part.numel),
    )


def wrapped_optimizer(engine: DeepSpeedEngine) -> Any:
    """torch's optimizer, which ZeRO wraps; its parameters are those of `Fragment.flat`."""
    return engine.optimizer if engine.zero_optimization_stage() == 0 else engine.optimizer.optimizer


def full_shape(parameter: nn.Parameter) -> torch.Size:
    """Of the whole parameter, which at stage 3 is empty between uses."""
    shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
    return shape


def own_shard(engine: DeepSpeedEngine, parameter: Any) -> Tensor:
    """What this rank holds of the weights: at stage 3 a flat shard, else all of the parameter.

    Shards are of one size on all ranks. Where they are larger than the parameter, what is left at
    the end is memory that nobody has written, and no part of this.
    """
    whole: Tensor = parameter.data
    if not hasattr(parameter, "ds_tensor"):
        return whole
    shard: Tensor = parameter.ds_tensor.data
    held = parameter.ds_numel - engine.global_rank * shard.numel()
    return shard.view(-1)[: max(0, min(shard.numel(), held))]


def drop_gathered(engine: DeepSpeedEngine) -> None:
    """At stage 3 free whole parameters that outlived a forward pass; else nothing.

    They would hide a change of the shards. The engine's own function also collects Python's
    garbage, which takes seconds in a process of this size.
    """
    if engine.zero_optimization_stage() == 3:
        engine.optimizer.empty_partition_cache()


def clear_gradients(engine: DeepSpeedEngine) -> None:
    """After an optimizer step, empty the buffers in which ZeRO keeps gradients from step to step.

    At stage 3, and with an offloaded optimizer, a parameter that no loss of the next step depends
    on would have the gradient of this one again.
    """
    zero, stage = engine.optimizer, engine.zero_optimization_stage()
    if stage == 0:
        return
    if stage == 3:
        zero.grad_partitions_flat_buffer.zero_()
    flats = (
        zero.fp32_partitioned_groups_flat if stage == 3 else zero.single_partition_of_fp32_groups
    )
    for flat in flats:
        if flat.grad is not None:
            flat.grad.zero_()


def loss_scale(engine: DeepSpeedEngine) -> dict[str, float]:
    """The state of the loss scaler by `LOSS_SCALE_KEYS`; at stage 0 there is none."""
    scaler = getattr(engine.optimizer, "loss_scaler", None)
    return {key: getattr(scaler, key) for key in LOSS_SCALE_KEYS if hasattr(scaler, key)}


def set_loss_scale(engine: DeepSpeedEngine, state: Mapping[str, float]) -> None:
    """Continue with what `loss_scale` gave, perhaps of an engine at another stage."""
    for key, now in loss_scale(engine).items():
        if key in state:
            setattr(engine.optimizer.loss_scaler, key, type(now)(state[key]))


def set_progress(engine: DeepSpeedEngine, *, steps: int, skipped: int) -> None:
    """Optimizer steps that are done, and those among them that overflowed and changed nothing.

    The engine counts both, and takes them over from checkpoints of its own format alone.
    """
    engine.global_steps = steps
    engine.skipped_steps = skipped


def estimated_states(
    parameters: int,
    largest_layer: int,
    stage: int,
    gpus_per_node: int,
    nodes: int,
    *,
    weights: bool,
) -> tuple[int, int]:
    """DeepSpeed's estimate of the model's states at stage 2 or 3, bytes a GPU: all there, and with
    the optimizer offloaded, with ``weights`` those too.

    Its documented estimators print a table; these are what they print.
    """
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

    size = {"num_gpus_per_node": gpus_per_node, "num_nodes": nodes}

    def estimate(offload: bool) -> int:
        if stage == 2:
            needs = estimate_zero2_model_states_mem_needs(parameters, **size, cpu_offload=offload)
        else:
            needs = estimate_zero3_model_states_mem_needs(
                parameters, largest_layer, **size, cpu_offload=offload, cpu_offload_params=weights
            )
        return int(needs[1])

    return estimate(False), estimate(True)
