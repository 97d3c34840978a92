"""Which components leave, given what each costs and what it is worth.

Legend: K components of a whole network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROUNDING = 1e-12  # of MACs in 1e9


def joint(
    own: Tensor,
    between: Tensor,
    macs: Tensor,
    part: Tensor,
    heads: Tensor,
    least: Tensor,
    excess: float,
) -> Tensor:
    """Which components to keep, [K] bool, so that at least `excess` MACs leave (SAViT).

    Heads and units are two classes. Of each, those of the lowest own score leave, from all parts;
    which share r of a class leaves, is the one that minimises r^T between r among all that reach
    `excess` and hardly more.

    own, macs: [K], score and MACs of a component. between: [2, 2], of heads and units. part: [K]
    long, which part it is of. heads: [K] bool. least: for every part, how many components of the
    highest scores stay whatever else leaves.

    Less than `excess` leaves where the parts must keep more.
    """
    orders, gone = [], []
    free = ~_highest(own, part, least)
    for members in (heads, ~heads):
        order = (members & free).nonzero()[:, 0]
        order = order[own[order].argsort(stable=True)]
        orders.append(order)
        gone.append(torch.cat([macs.new_zeros(1), macs[order].cumsum(0)]))
    rest = excess - ROUNDING - gone[0]  # of MACs, what is left to units, by the number of heads
    rest = rest[: int((rest > 0).sum()) + 1]
    units = torch.searchsorted(gone[1], rest.clamp(min=0)).clamp(max=len(orders[1]))
    numbers = torch.stack([torch.arange(len(rest)), units])
    total = torch.stack([heads.sum(), (~heads).sum()])
    shares = (numbers / total[:, None].clamp(min=1)).to(between)
    cost = torch.einsum("in,ij,jn->n", shares, between, shares)
    short = gone[1][units] < rest
    choice = -1 if short.all() else int(cost.masked_fill(short, float("inf")).argmin())
    kept = torch.ones(len(own), dtype=torch.bool)
    kept[orders[0][: int(numbers[0, choice])]] = False
    kept[orders[1][: int(units[choice])]] = False
    return kept


def _highest(own: Tensor, part: Tensor, least: Tensor) -> Tensor:
    """[K] bool: the `least` highest scores of every part."""
    found = torch.zeros(len(own), dtype=torch.bool)
    for number, count in enumerate(least.tolist()):
        members = (part == number).nonzero()[:, 0]
        found[members[own[members].argsort(descending=True, stable=True)[:count]]] = True
    return found


def best(worth: Tensor, count: int) -> Tensor:
    """[K] bool: the `count` components of the largest worth [K]."""
    kept = torch.zeros(len(worth), dtype=torch.bool, device=worth.device)
    return kept.scatter(0, worth.argsort(descending=True, stable=True)[:count], True)


def swap(kept: Tensor, worth: Tensor, promise: Tensor, rate: float) -> Tensor:
    """Drop and grow: ceil(rate x those that are kept) of the least worth leave, and as many come
    back of all that are not kept then, those of the largest promise. No wait for the device.

    kept: [K] bool. worth, promise: [K]; worth counts where kept, promise where not, in the end.
    """
    count = (rate * kept.sum().double()).ceil()
    kept = kept & (_rank(worth.masked_fill(~kept, float("inf"))) >= count)
    return kept | (_rank(-promise.masked_fill(kept, -float("inf"))) < count)


def _rank(x: Tensor) -> Tensor:
    """[K] long: how many come before each in ascending order, of equals the earlier ones."""
    order = x.argsort(stable=True)
    return torch.empty_like(order).scatter(0, order, torch.arange(len(x), device=x.device))


def even_plan(
    sizes: Mapping[str, int],
    macs: Mapping[str, float],
    heads: Sequence[str],
    excess: float,
) -> dict[str, int]:
    """The same share of every part, so that at least `excess` MACs leave, and hardly more.

    sizes: components of every part. macs: of one of its components. heads: parts whose components
    are few and large: their share is rounded, and the others make up for it.
    """
    total = sum(sizes[name] * macs[name] for name in sizes)
    share = max(0.0, 1 - excess / total)
    plan = {name: max(1, round(share * sizes[name])) for name in heads}
    others = [name for name in sizes if name not in plan]

    def fill(part: float) -> dict[str, int]:
        kept = {name: max(1, int(part * sizes[name] + 1e-9)) for name in others}
        return {name: ({**plan, **kept})[name] for name in sizes}

    def lost(whole: Mapping[str, int]) -> float:
        return sum((sizes[name] - kept) * macs[name] for name, kept in whole.items())

    while lost(fill(0.0)) < excess and any(plan[name] > 1 for name in heads):
        plan = {name: max(1, kept - 1) for name, kept in plan.items()}
    low, high = 0.0, 1.0
    if lost(fill(high)) >= excess:
        return fill(high)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if lost(fill(middle)) >= excess else (low, middle)
    return fill(low)
