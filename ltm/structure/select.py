"""Which components leave, given what each costs and what it is worth.

Legend: K components of a whole network, n images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

# what removing each component would cost [K], given those that are removed already [K], bool
Cost = Callable[[Tensor], Tensor]

ROUNDS = 100


def taylor_cost(samples: Tensor) -> Cost:
    """Squared first-order Taylor terms with cross terms (SAViT).

    samples: [n, K], the derivative of an image's loss by the gate of each component. Removing a
    set R changes the loss of an image by sum_R s_i to first order, and the second-order term with
    the empirical Fisher in the place of the Hessian is half the mean of (sum_R s_i)^2. With r =
    sum of s over those removed, component i adds mean(s_i^2 + 2 s_i r).
    """
    own = samples.square().mean(0)

    def cost(removed: Tensor) -> Tensor:
        total = samples @ removed.to(samples.dtype)
        return own + 2 * (samples * total[:, None]).mean(0)

    return cost


def remove(
    cost: Cost, macs: Tensor, part: Tensor, least: Tensor, excess: float, rounds: int = ROUNDS
) -> Tensor:
    """Which components to keep, [K] bool, so that at least `excess` MACs leave at a low cost.

    Those of the lowest cost per MAC leave, a hundredth of the excess at a time, since every removal
    changes what the others cost. Of those that left, the costliest come back where they still fit.

    macs: [K], of each component. part: [K] long, which part it is of. least: for every part, how
    many components stay at least.
    """
    kept = torch.ones(len(macs), dtype=torch.bool)
    count = torch.bincount(part, minlength=len(least))
    price, spare, limit = macs.tolist(), (count - least).tolist(), excess
    numbers, gone = part.tolist(), 0.0
    while gone < limit:
        order = (cost(~kept) / macs).masked_fill(~kept, float("inf")).argsort().tolist()
        target, before = min(limit, gone + excess / rounds), gone
        for i in order[: int(kept.sum())]:
            if gone >= target:
                break
            if spare[numbers[i]] > 0:
                kept[i] = False
                spare[numbers[i]] -= 1
                gone += price[i]
        if gone == before:
            break  # nothing is left that may go
    for i in cost(~kept).masked_fill(kept, -float("inf")).argsort(descending=True).tolist():
        if kept[i]:
            break
        if gone - price[i] >= limit:
            kept[i] = True
            gone -= price[i]
    return kept


def best(worth: Tensor, count: int) -> Tensor:
    """[K] bool: the `count` components of the largest worth [K]."""
    kept = torch.zeros(len(worth), dtype=torch.bool, device=worth.device)
    return kept.scatter(0, worth.argsort(descending=True, stable=True)[:count], True)


def swap(kept: Tensor, worth: Tensor, promise: Tensor, count: int) -> Tensor:
    """Drop and grow: the `count` kept components of least worth give way to as many removed ones.

    kept: [K] bool. worth, promise: [K], of which those of kept and of removed ones count. Fewer
    change where fewer are removed.
    """
    count = min(count, int((~kept).sum()), int(kept.sum()))
    dropped = worth.masked_fill(~kept, float("inf")).argsort(stable=True)[:count]
    grown = promise.masked_fill(kept, -float("inf")).argsort(descending=True, stable=True)[:count]
    return kept.scatter(0, dropped, False).scatter(0, grown, True)


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
