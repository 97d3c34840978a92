"""The optimizer's state by parameter, in whole tensors, whatever shards DeepSpeed keeps it in.

A checkpoint in this form goes on with any optimizer, on any number of ranks, at any ZeRO stage.
(DeepSpeed's universal format knows Adam alone and wants a conversion.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ltm_platform.compat.deepspeed_engine import (
    LOSS_SCALE_KEYS,
    full_shape,
    loss_scale,
    own_fragment,
    set_loss_scale,
    wrapped_optimizer,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ltm_platform.training.engine.interface import Engine


Scalars = dict[str, tuple[float, str, str]]
"""Name -> value, torch dtype and device type; the last two are empty for a Python number."""


GROUP_STEP = "group step"
MASTER = "master"
"""The fp32 weights, where the model's own are in half precision."""


def trained_parameters(engine: Engine) -> Iterator[tuple[str, nn.Parameter]]:
    for name, parameter in engine.module.model.named_parameters():
        if parameter.requires_grad:
            yield name, parameter


@torch.no_grad()
def gather_optimizer_state(engine: Engine) -> tuple[dict[str, Tensor], Scalars]:
    """``key/parameter`` -> whole tensor on the CPU of rank 0, empty on the others. Collective.

    Beside them the state's scalars, such as Adam's ``step``, which all parameters share.
    """
    optimizer = wrapped_optimizer(engine)
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
    scalars |= {key: _stored(value) for key, value in loss_scale(engine).items()}
    agreed = [sorted(set(keys))]
    dist.broadcast_object_list(agreed)

    gathered = {}
    for name, parameter in trained_parameters(engine):
        fragment = own_fragment(engine, parameter)
        shape = full_shape(parameter)
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
def optimizer_is_finite(engine: Engine) -> bool:
    """Whether no rank holds a state that is NaN or infinite. Collective.

    Some optimizers bound their steps: after an infinite gradient their weights stay finite, but
    what they remember of it never leaves.
    """
    optimizer = wrapped_optimizer(engine)
    broken = torch.zeros((), device=engine.device)
    for _, parameter in trained_parameters(engine):
        fragment = own_fragment(engine, parameter)
        if fragment is None:
            continue
        for value in optimizer.state[fragment.flat].values():
            if isinstance(value, Tensor) and value.shape == fragment.flat.shape:
                bad = ~torch.isfinite(value.view(-1)[fragment.inside]).all()
                broken += bad.to(broken.device)
    dist.all_reduce(broken)
    return not broken.item()


@torch.no_grad()
def load_optimizer_state(
    engine: Engine,
    weights: dict[str, Tensor],
    state: dict[str, Tensor],
    scalars: Scalars,
) -> None:
    """Continue from ``weights``, the whole model's, and what `gather_optimizer_state` gave."""
    optimizer = wrapped_optimizer(engine)
    keys = {name.split("/")[0] for name in state} - {MASTER}
    fused = any(group.get("fused") for group in optimizer.param_groups)
    set_loss_scale(engine, {key: value for key, (value, *_) in scalars.items()})
    for name, parameter in trained_parameters(engine):
        fragment = own_fragment(engine, parameter)
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
            if key not in (GROUP_STEP, *LOSS_SCALE_KEYS):
                # what updates all in one pass counts its steps where the weights are
                where = flat.device if fused else _place(value, engine)
                kept[key] = _restored(value, where)
    for group in optimizer.param_groups:
        if GROUP_STEP in scalars:
            group["step"] = _restored(scalars[GROUP_STEP], _place(scalars[GROUP_STEP], engine))


def _stored(value: Tensor | float) -> tuple[float, str, str]:
    if isinstance(value, Tensor):
        return float(value), str(value.dtype).removeprefix("torch."), value.device.type
    return float(value), "", ""


def _place(stored: tuple[float, str, str], engine: Engine) -> torch.device:
    return torch.device("cpu") if stored[2] == "cpu" else engine.device


def _restored(stored: tuple[float, str, str], where: torch.device) -> Tensor | int:
    value, dtype, _ = stored
    if not dtype:
        return int(value)
    return torch.tensor(value, dtype=getattr(torch, dtype), device=where)
