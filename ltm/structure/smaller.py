"""A plain ViT with fewer blocks or fewer heads, of the cost that a method is compared at."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from timm.models.vision_transformer import VisionTransformer

from ltm.adopt import adopt
from ltm.errors import FieldError
from ltm.flops import count, image_size_of
from ltm.interfaces import Compressible
from ltm.plan import DEFAULT_RATIO, check_names, check_ratio

if TYPE_CHECKING:
    from ltm.interfaces import Grid, Hooks

Build = Callable[..., Any]
"""timm's network of a name, with these arguments of timm in the place of its own."""

_EXACT = 1e-12  # GMACs that are rounding

_logger = logging.getLogger(__name__)


class SmallerViT(Compressible, VisionTransformer):
    """timm's plain ViT with another depth or width, which it has from the start and for good."""

    timm_name: str
    image_size: Grid
    method: Hooks
    _wish: float | Mapping[str, int] | None

    @property
    def plan(self) -> dict[str, int]:
        """{"depth": blocks, "heads": heads}; all heads have the width of the backbone's."""
        return shape_of(self)

    @property
    def compression(self) -> float | Mapping[str, int] | None:
        """The setting: a kept fraction of the MACs, a plan, or None for the default."""
        return self._wish

    def set_compression(
        self, to: float | Mapping[str, int] | None = None, *, gmacs: float | None = None
    ) -> None:
        """FieldError for anything but what the network is."""
        if gmacs is not None or to not in (self._wish, self.plan):
            problem = "cannot change: a smaller network is built in its size"
            raise FieldError("compression_ratio", to, problem=problem)


def shape_of(model: Any) -> dict[str, int]:
    """Depth and heads of a plain ViT."""
    return {"depth": len(model.blocks), "heads": model.blocks[0].attn.num_heads}


def smaller(
    build: Build,
    method: Hooks,
    part: str,
    to: float | Mapping[str, int] | None = None,
    target_gmacs: float | None = None,
) -> SmallerViT:
    """A plain ViT whose GMACs come closest to a budget from below, by what one part has fewer of.

    part: "depth" or "heads". to: the budget as a share of the MACs of the whole network, or a plan,
    {"depth": 9} or {"heads": 5} or both; None is a share of 0.8.

    FieldError for a network that is no plain ViT, or for a budget that no such network keeps.
    """
    with torch.device("meta"):
        whole = build()
    if type(whole) is not VisionTransformer:
        kind = type(whole).__name__
        problem = f"is {method.name!r}, which has no smaller {kind}"
        raise FieldError("method", method.name, "a plain ViT", problem)
    full, width = shape_of(whole), whole.embed_dim // shape_of(whole)["heads"]

    def built(plan: Mapping[str, int]) -> Any:
        arguments = {}
        if plan["depth"] < full["depth"]:
            arguments = {"depth": plan["depth"]}
        if plan["heads"] < full["heads"]:
            heads = plan["heads"]
            arguments |= {"num_heads": heads, "embed_dim": heads * width}
        return build(**arguments)

    def cost(n: int) -> float:
        with torch.device("meta"):
            return count(built({**full, part: n})).gmacs

    if isinstance(to, Mapping):
        plan = _checked(to, full)
    else:
        target = target_gmacs
        if target is None:
            target = cost(full[part]) * (DEFAULT_RATIO if to is None else check_ratio(to))
        plan = {**full, part: _most(cost, full[part], target, of_ratio=target_gmacs is None)}
    model = adopt(SmallerViT, built(plan))
    model.image_size = image_size_of(model)
    model.method, model._wish = method, to
    _logger.info("%s: %s of %s", method.name, plan, full)
    return model


def _most(cost: Callable[[int], float], full: int, target: float, *, of_ratio: bool) -> int:
    """The largest number, up to `full`, whose cost is at most the target."""
    least, whole = cost(1), cost(full)
    if not target + _EXACT >= least:
        if of_ratio:
            raise FieldError(
                "compression_ratio", target / whole, f"{least / whole:.3f} to 1 for this model"
            )
        raise FieldError(
            "target_gmacs",
            target,
            f"{least:.4g} or more for this model; the whole one takes {whole:.4g}",
        )
    low, high = 1, full + 1  # low fits, high does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(middle) <= target + _EXACT else (low, middle)
    return low


def _checked(plan: Mapping[str, int], full: Mapping[str, int]) -> dict[str, int]:
    check_names(plan, full)
    for name, n in plan.items():
        if type(n) is not int or not 1 <= n <= full[name]:
            allowed = f"a whole number from 1 to {full[name]}"
            raise FieldError("plan", n, allowed, f"has {name} {n!r}")
    return {**full, **plan}
