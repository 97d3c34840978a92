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
from ltm.structure.speed import faster

if TYPE_CHECKING:
    from torch import nn

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
    sizes = _Sizes(build, method, part)
    if isinstance(to, Mapping):
        return sizes.network(_checked(to, sizes.full), to)
    target = target_gmacs
    if target is None:
        target = sizes.cost(sizes.most) * (DEFAULT_RATIO if to is None else check_ratio(to))
    least, whole = sizes.cost(1), sizes.cost(sizes.most)
    if not target + _EXACT >= least:
        if target_gmacs is None:
            allowed = f"{least / whole:.3f} to 1 for this model"
            raise FieldError("compression_ratio", target / whole, allowed)
        allowed = f"{least:.4g} or more for this model; the whole one takes {whole:.4g}"
        raise FieldError("target_gmacs", target, allowed)
    number = _most(lambda n: sizes.cost(n) <= target + _EXACT, sizes.most)
    return sizes.network({**sizes.full, part: number}, to)


def as_fast(build: Build, method: Hooks, part: str, beside: nn.Module) -> SmallerViT:
    """The largest such ViT whose forward pass takes no more time than that of `beside`.

    Both run in turns on random images, see `faster`. Without values nothing can be timed, and it is
    the largest of no more MACs.

    FieldError for a network that is no plain ViT, or where even the smallest takes longer.
    """
    if next(beside.parameters()).is_meta:
        return smaller(build, method, part, target_gmacs=count(beside).gmacs)
    sizes = _Sizes(build, method, part)

    def fits(n: int) -> bool:
        return faster(sizes.built({**sizes.full, part: n}), beside)

    if not fits(1):
        problem = "runs faster than the smallest network"
        allowed = "a method, or a budget, that takes longer"
        raise FieldError("options.as_fast_as", method.name, allowed, problem)
    return sizes.network({**sizes.full, part: _most(fits, sizes.most)})


class _Sizes:
    """A plain ViT in all its sizes.

    full: depth and heads of the whole one. most: the full number of the part that shrinks.
    """

    def __init__(self, build: Build, method: Hooks, part: str) -> None:
        with torch.device("meta"):
            whole = build()
        if type(whole) is not VisionTransformer:
            kind = type(whole).__name__
            problem = f"is {method.name!r}, which has no smaller {kind}"
            raise FieldError("method", method.name, "a plain ViT", problem)
        self._build, self._method, self._part = build, method, part
        self.full = shape_of(whole)
        self.most = self.full[part]
        self._width = whole.embed_dim // self.full["heads"]

    def built(self, plan: Mapping[str, int]) -> Any:
        arguments = {}
        if plan["depth"] < self.full["depth"]:
            arguments = {"depth": plan["depth"]}
        if plan["heads"] < self.full["heads"]:
            heads = plan["heads"]
            arguments |= {"num_heads": heads, "embed_dim": heads * self._width}
        return self._build(**arguments)

    def cost(self, n: int) -> float:
        """1e9 MACs an image with so many of the part that shrinks."""
        with torch.device("meta"):
            return count(self.built({**self.full, self._part: n})).gmacs

    def network(
        self, plan: Mapping[str, int], wish: float | Mapping[str, int] | None = None
    ) -> SmallerViT:
        model = adopt(SmallerViT, self.built(plan))
        model.image_size = image_size_of(model)
        model.method, model._wish = self._method, wish
        _logger.info("%s: %s of %s", self._method.name, plan, self.full)
        return model


def _most(fits: Callable[[int], bool], full: int) -> int:
    """The largest number from 1 to `full` that fits: 1 does, and with any all below it."""
    low, high = 1, full + 1  # low fits, high does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _checked(plan: Mapping[str, int], full: Mapping[str, int]) -> dict[str, int]:
    check_names(plan, full)
    for name, n in plan.items():
        if type(n) is not int or not 1 <= n <= full[name]:
            allowed = f"a whole number from 1 to {full[name]}"
            raise FieldError("plan", n, allowed, f"has {name} {n!r}")
    return {**full, **plan}
