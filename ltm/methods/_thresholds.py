"""What LTMP's thresholds decide: softly in training, by themselves, or down to a number.

Legend: B images, N tokens, P slots, d channels of the metric. A and B are the sides of a matching.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltm.merge import HALF, Assigned, Chained, Selected, Soft
from ltm.methods._sequence import by_sides, cosines, sides
from ltm.methods.matching import join, pairs
from ltm.methods.relaxed import LEFT_OVER, Threshold, left_over


class Thresholds(nn.Module):
    """The two learned numbers of a block."""

    def __init__(self, tau: float) -> None:
        super().__init__()
        self.merge = Threshold(0.9, tau)
        self.prune = Threshold(0.0, tau)


class Tokens(NamedTuple):
    """What is decided by.

    metric: [B, N, d], whose cosine is similarity. received: [B, N], importance. mass: [B, N].
    prefix: how many tokens stand before them.
    """

    metric: Tensor
    received: Tensor
    mass: Tensor
    prefix: int = 0

    def matched(self, here: Tensor, absent: float) -> tuple[Tensor, Tensor]:
        """Each A token's largest similarity to a B token, and which of these it is: [B, A] each.

        absent: similarity to a token that is not `here`, [B, N] bool.
        """
        _, b = sides(self.prefix)
        cosine = cosines(self.metric, self.prefix)
        likeness, partner = cosine.masked_fill(~here[:, None, b], absent).max(-1)
        return likeness, partner

    def importance(self, partner: Tensor, merges: Tensor) -> Tensor:
        """After A tokens [B, A] merged: the largest of what is in a token, [B, N], A first."""
        a, b = sides(self.prefix)
        joins = self.received[:, a] * merges
        largest = self.received[:, b].scatter_reduce(1, partner, joins, "amax")
        return torch.cat([self.received[:, a], largest], 1)


def decide_softly(given: Tokens, thresholds: Thresholds) -> tuple[Chained, Tensor]:
    """Training: no token is removed. The merge, and how much of its slots is left, [B, N].

    A token that left keeps the gradient of the decision by which it did: its mass is that part of
    its size that `LEFT_OVER` says.
    """
    B, N = given.mass.shape
    order = by_sides(N, given.prefix, given.mass)
    mass, here = given.mass[:, order], given.mass.detach() > HALF
    likeness, partner = given.matched(here, 0.0)
    sources = likeness.shape[1]
    here = here[:, order]
    size = mass.where(here, mass / LEFT_OVER).detach()

    merges = thresholds.merge(likeness)
    goes = merges.detach() * here[:, :sources]
    rows = mass.new_zeros(B, sources, N - sources)
    rows = rows.scatter(2, partner[..., None], (size[:, :sources] * goes)[..., None])
    incoming = F.pad(rows, (sources, 0, 0, N - sources))
    stays = thresholds.prune(given.importance(partner, goes))
    gone = F.pad(goes > HALF, (0, N - sources))
    left = F.pad(1 - merges, (0, N - sources)).where(gone, stays)

    after = (size + incoming.sum(1)) * left_over(left)
    soft = Soft(size, incoming, after.where(here, mass))
    permuted = Chained(Selected(order.expand(B, -1), N), soft)
    return permuted, left.where(here, mass / size)


def decide(
    given: Tokens, thresholds: Thresholds, present: Tensor | None, slots: int | None, counted: int
) -> Chained:
    """Inference: tokens that left are removed.

    slots: how many stay of every image; None leaves it to the thresholds, and slots beyond an
    image's own are padding. counted: slots where there are no values.
    """
    B, N = given.mass.shape
    here = torch.ones_like(given.mass, dtype=torch.bool) if present is None else present
    order = by_sides(N, given.prefix, given.mass)
    likeness, partner = given.matched(here, -1.0)
    sources, here = likeness.shape[1], here[:, order]
    joins = thresholds.merge.passed(likeness) & here[:, :sources]
    importance = given.importance(partner, joins)
    stays = thresholds.prune.passed(importance)
    if slots is None:
        stays = stays & here & ~F.pad(joins, (0, N - sources))
        stays = _at_least_one(stays, importance, here, joins)
    else:
        kept = _rank(likeness, importance, joins, stays).argsort(-1, descending=True)[:, :slots]
        may_join = joins | stays[:, :sources]
        stays = torch.zeros_like(stays).scatter(1, kept, True)
        joins = may_join & ~stays[:, :sources]
    number = order.expand(B, -1)
    slot = number[:, sources:].gather(1, partner).where(joins, number[:, :sources])
    slot = torch.cat([slot, number[:, sources:]], 1)
    slot = torch.empty_like(slot).scatter(1, number, slot)
    # slots of tokens that joined others are empty here, and then removed
    weight = given.mass if present is None else given.mass.where(present, 1.0)
    merge = Assigned.normalised(slot, weight, N)
    place = torch.arange(N, device=stays.device)
    first = (place + N * ~stays).argsort(-1)  # ONNX has no stable sort
    count = stays.sum(1)
    P, padded = (slots, False) if slots is not None else _width(count, N, counted)
    there = torch.arange(P, device=count.device) < count[:, None] if padded else None
    return Chained(merge, Selected(number.gather(1, first[:, :P]), N, there))


def _rank(likeness: Tensor, importance: Tensor, joins: Tensor, stays: Tensor) -> Tensor:
    """Who stays, largest first, A tokens before B tokens: cosines lie in [-1, 1], importance in
    [0, 1]."""
    sources = joins.shape[1]
    rank = torch.where(stays, importance + 2, importance - 3)
    of_sources = (-likeness).where(stays[:, :sources], rank[:, :sources])
    of_sources = (-likeness - 5).where(joins, of_sources)
    return torch.cat([of_sources, rank[:, sources:]], 1)


def _at_least_one(stays: Tensor, importance: Tensor, here: Tensor, joins: Tensor) -> Tensor:
    sources = joins.shape[1]
    free = here & ~F.pad(joins, (0, here.shape[1] - sources))
    best = importance.masked_fill(~free, -1.0).argmax(1, keepdim=True)
    return stays.scatter(1, best, True)


def _width(count: Tensor, tokens: int, counted: int) -> tuple[int, bool]:
    """To how many slots images are padded, and whether any is."""
    if count.is_meta:
        return counted, True
    if torch.compiler.is_compiling():  # a shape must not depend on values
        return tokens, True
    if not len(count):
        return counted, False
    fewest, most = torch.stack(count.aminmax()).tolist()
    most = max(most, 2)  # the next matching has two sides
    return most, fewest < most


def decide_on_grid(
    metric: Tensor, received: Tensor, mass: Tensor, slots: int, thresholds: Thresholds
) -> Assigned:
    """A step of the grid rule: A tokens leave, in the order that the thresholds say."""
    N = mass.shape[1]
    likeness, partner = pairs(metric)
    source = received[:, ::2]
    merges = thresholds.merge(likeness)
    prunes = (1 - merges) * (1 - thresholds.prune(source))
    # three ranks, each in an order of its own: cosines lie in [-1, 1], importance in [0, 1]
    order = likeness + 4 * merges + prunes * (2 - likeness - source)
    gone = order.detach().argsort(-1, descending=True)[:, : N - slots]
    slot = join(2 * gone, partner.gather(1, gone), N)
    leaves = torch.zeros_like(mass).scatter(1, 2 * gone, 1.0)
    pruned = F.pad(prunes[..., None], (0, 1)).flatten(1)[:, :N] * leaves
    return Assigned.normalised(slot, mass * (1 - pruned), slots)
