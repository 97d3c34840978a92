"""Multiply-accumulates and parameters of a model, in both conventions of the literature.

One multiply-accumulate (MAC) is two floating point operations; 1 GMAC is 1e9. Convolutions,
linear layers, matrix products and the weighted sums of merging count; element-wise operations,
softmax and normalisation do not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.func import functional_call

from ltm._arguments import check_image_size
from ltm._compat import (
    EMBEDDING_BAGS,
    FUSED_ATTENTION,
    FUSED_ATTENTION_ON_CPU,
    FlopCounterMode,
    sdpa_flop_count,
)
from ltm.errors import FieldError
from ltm.modes import evaluating

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

aten = torch.ops.aten
_ATTENTION = re.compile("attention|attn|mla", re.IGNORECASE)
_WRAPPERS = (["module"], ["_orig_mod"])  # of DDP and averaged weights; of torch.compile
_MATMULS = {
    aten.bmm,
    aten.baddbmm,
    *FUSED_ATTENTION,
}


@dataclass(frozen=True)
class Cost:
    """What one image costs, in 1e9 multiply-accumulates, and the model's parameters in 1e6.

    gmacs counts everything; gmacs_no_attention_matmul leaves out the two products of softmax or
    linear attention, as timm's and some papers' tables do.
    """

    gmacs: float
    gmacs_no_attention_matmul: float
    params_m: float


@dataclass(frozen=True)
class Count(Cost):
    """The cost of a model, and of each of its modules by timm's name ("blocks.0")."""

    blocks: dict[str, Cost]


def count(model: nn.Module, image_size: int | tuple[int, int] | None = None) -> Count:
    """Count a model on one image of `image_size` pixels (its own size when omitted).

    Of any precision, device and number of channels; of one that is wrapped (DDP, averaged weights,
    torch.compile) what is inside. Runs on the meta device, in evaluation mode: no arithmetic, and
    no change to the model or to torch's and timm's global state.
    """
    model = unwrapped(model)
    size = image_size_of(model) if image_size is None else check_image_size(image_size)
    weights = (tensor for tensor in model.parameters() if tensor.is_floating_point())
    dtype = next((tensor.dtype for tensor in weights), None)
    image = torch.empty(1, channels_of(model), *size, device="meta", dtype=dtype)
    state = {
        name: torch.empty_like(tensor, device="meta")
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]
    }
    flops = FlopCounterMode(display=False, custom_mapping=_FORMULAS)
    with evaluating(model), torch.no_grad(), flops:
        functional_call(model, state, (image,))
    counts: dict[str, dict[Any, int]] = flops.get_flop_counts()

    root = type(model).__name__
    modules = dict(model.named_modules())

    def flops_of(name: str, only: Collection[Any] | None = None) -> int:
        ops = counts.get(f"{root}.{name}" if name else "Global")
        if ops is None:  # never called itself, as a container whose parts are
            prefix = f"{name}." if name else ""
            return sum(flops_of(prefix + part, only) for part, _ in modules[name].named_children())
        return sum(n for op, n in ops.items() if only is None or op in only)

    attention = {
        name: flops_of(name, _MATMULS)
        for name, module in modules.items()
        if _ATTENTION.search(type(module).__name__)
    }

    def cost(name: str) -> Cost:
        total = flops_of(name)
        matmul = sum(
            n for inner, n in attention.items() if not name or f"{inner}.".startswith(f"{name}.")
        )
        params = sum(p.numel() for p in modules[name].parameters())
        return Cost(total / 2e9, (total - matmul) / 2e9, params / 1e6)

    costs = {name: cost(name) for name in modules}
    whole = costs.pop("")
    return Count(whole.gmacs, whole.gmacs_no_attention_matmul, whole.params_m, costs)


def image_size_of(model: nn.Module) -> tuple[int, int]:
    """Height and width in pixels of the images that a model is made for.

    FieldError for a model that does not say.
    """
    for module in (model, *model.children()):  # of features, the network is a child
        embed = getattr(module, "patch_embed", None)
        config: Any = getattr(module, "pretrained_cfg", None) or {}
        found = getattr(module, "image_size", None) or getattr(embed, "img_size", None)
        found = found or config.get("input_size", ())[-2:]
        if found:
            height, width = found
            return int(height), int(width)
    problem = f"is not given, and {type(model).__name__} does not say what it is made for"
    raise FieldError("image_size", None, "a number of pixels", problem)


def channels_of(model: nn.Module) -> int:
    """Channels of the images that a model takes: those of its first convolution."""
    convolutions = (module for module in model.modules() if isinstance(module, nn.Conv2d))
    first = next(convolutions, None)
    return 3 if first is None else first.in_channels


def unwrapped(model: nn.Module) -> nn.Module:
    """What a wrapper of any kind holds; a model that is in none itself."""
    names = [name for name, _ in model.named_children()]
    return unwrapped(model.get_submodule(names[0])) if names in _WRAPPERS else model


def _sdpa(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(q, k, v))


def _added(position: int) -> Callable[..., int]:
    """Two operations, one multiply and one add, for every element that is added up."""

    def formula(*shapes: Any, **_: Any) -> int:
        shape = shapes[position]
        return 2 * prod(shape)

    return formula


def _bag(_weight: Any, indices: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return int(2 * prod(indices) * out_shape[0][-1])


_FORMULAS: dict[Any, Callable[..., Any]] = {
    FUSED_ATTENTION_ON_CPU: _sdpa,
    **dict.fromkeys(EMBEDDING_BAGS, _bag),
    aten.scatter_add: _added(3),
}
