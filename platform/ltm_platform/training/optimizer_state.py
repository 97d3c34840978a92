"""The optimizer's state by parameter, in whole tensors, whatever shards DeepSpeed keeps it in.

A checkpoint in this form goes on with any optimizer, on any number of ranks, at any ZeRO stage.
(DeepSpeed's universal format knows Adam alone and wants a conversion.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ltm_platform.training.engine import Engine


Scalars = dict[str, tuple[float, str, str]]
"""Name -> value, torch dtype and device type; the last two are empty for a Python number."""


GROUP_STEP = "group step"
MASTER = "master"
"""The fp32 weights, where the model's own are in half precision."""
LOSS_SCALER = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
"""What a dynamic loss scaler of DeepSpeed remembers."""


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


def trained_parameters(engine: Engine) -> Iterator[tuple[str, nn.Parameter]]:
    for name, parameter in engine.module.model.named_parameters():
        if parameter.requires_grad:
            yield name, parameter


def _fragment(engine: Engine, parameter: Any) -> Fragment | None:
    """Where this rank keeps its part of a parameter, which DeepSpeed has marked; None for none."""
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


def _torch_optimizer(engine: Engine) -> Any:
    """The optimizer that DeepSpeed wraps."""
    return engine.optimizer if engine.zero_optimization_stage() == 0 else engine.optimizer.optimizer


def _full_shape(parameter: nn.Parameter) -> torch.Size:
    return getattr(parameter, "ds_shape", parameter.shape)


@torch.no_grad()
def gather_optimizer_state(engine: Engine) -> tuple[dict[str, Tensor], Scalars]:
    """``key/parameter`` -> whole tensor on the CPU of rank 0, empty on the others. Collective.

    Beside them the state's scalars, such as Adam's ``step``, which all parameters share.
    """
    optimizer = _torch_optimizer(engine)
    keys: list[str] = []
    scalars: Scalars = {}
    for flat, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == flat.shape:
                keys.append(key)
            elif value is not None:
                scalars[key] = _stored(value)
    for group in optimizer.param_groups:
        if "step" in group:  # where some of timm's optimizers count
            scalars[GROUP_STEP] = _stored(group["step"])
    if any(p.dtype != torch.float32 for _, p in trained_parameters(engine)):
        keys.append(MASTER)
    scaler = getattr(engine.optimizer, "loss_scaler", None)
    scalars |= {key: _stored(getattr(scaler, key)) for key in LOSS_SCALER if hasattr(scaler, key)}
    agreed = [sorted(set(keys))]
    dist.broadcast_object_list(agreed)

    gathered = {}
    for name, parameter in trained_parameters(engine):
        fragment = _fragment(engine, parameter)
        shape = _full_shape(parameter)
        for key in agreed[0]:
            whole = torch.zeros(shape.numel(), device=engine.device)
            if fragment:
                flat = fragment.flat
                kept = flat.data if key == MASTER else optimizer.state[flat][key]
                whole[fragment.part] = kept.view(-1)[fragment.inside].float()
            if engine.zero_optimization_stage():
                dist.all_reduce(whole)
            if engine.global_rank == 0:
                gathered[f"{key}/{name}"] = whole.view(shape).cpu()
    return gathered, scalars


@torch.no_grad()
def load_optimizer_state(
    engine: Engine,
    weights: dict[str, Tensor],
    state: dict[str, Tensor],
    scalars: Scalars,
) -> None:
    """Continue from ``weights``, the whole model's, and what `gather_optimizer_state` gave."""
    optimizer = _torch_optimizer(engine)
    keys = {name.split("/")[0] for name in state} - {MASTER}
    scaler = getattr(engine.optimizer, "loss_scaler", None)
    for key in LOSS_SCALER:
        if key in scalars:
            setattr(scaler, key, type(getattr(scaler, key))(scalars[key][0]))
    for name, parameter in trained_parameters(engine):
        fragment = _fragment(engine, parameter)
        if fragment is None:
            continue
        flat = fragment.flat
        master = state.get(f"{MASTER}/{name}", weights[name])
        flat.data.view(-1)[fragment.inside] = master.flatten()[fragment.part].to(flat.device)
        kept = optimizer.state[flat]
        for key in keys:
            if key not in kept:
                kept[key] = torch.zeros_like(flat, requires_grad=False)
            part = state[f"{key}/{name}"].flatten()[fragment.part]
            kept[key].view(-1)[fragment.inside] = part.to(flat.device)
        for key, value in scalars.items():
            if key not in (GROUP_STEP, *LOSS_SCALER):
                kept[key] = _restored(value, engine)
    for group in optimizer.param_groups:
        if GROUP_STEP in scalars:
            group["step"] = _restored(scalars[GROUP_STEP], engine)


def _stored(value: Tensor | float) -> tuple[float, str, str]:
    if isinstance(value, Tensor):
        return float(value), str(value.dtype).removeprefix("torch."), value.device.type
    return float(value), "", ""


def _restored(stored: tuple[float, str, str], engine: Engine) -> Tensor | int:
    value, dtype, device = stored
    if not dtype:
        return int(value)
    where = torch.device("cpu") if device == "cpu" else engine.device
    return torch.tensor(value, dtype=getattr(torch, dtype), device=where)
