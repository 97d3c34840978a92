"""Tokens are ranked: the first stay, the next join them, the last are dropped.

What DiffRate (arXiv 2305.17997) learns is how many of each. Legend: B images, N tokens, P slots,
D channels, C candidates for a number of tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import torch

from ltm.merge import HALF, Assigned, Soft, at_least_float32, presence
from ltm.methods.relaxed import masses, straight_through

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PrunedAndMerged(Assigned):
    """Plain means of what is not pruned, of weight 0; part: [B, N], of a token that sizes count."""

    part: Tensor

    keeps_mass = False

    def sizes(self, mass: Tensor | None = None) -> Tensor:
        return super().sizes(self.part if mass is None else mass * self.part)

    def unmerge(self, y: Tensor) -> Tensor:
        return super().unmerge(y) * (self.weight > 0)[..., None]

    def repeated(self, times: int) -> Self:
        return replace(super().repeated(times), part=self.part.repeat_interleave(times, 0))


def rates(logits: Tensor, tokens: int, granularity: int) -> tuple[Tensor, Tensor]:
    """What logits [..., C] say: the number of tokens kept [...], and P(n > j), [..., tokens].

    granularity: from one candidate n to the next, from all tokens down.
    """
    chance = at_least_float32(logits).softmax(-1)
    n = tokens - granularity * torch.arange(logits.shape[-1], device=logits.device)
    mean = (chance * n).sum(-1)
    more = n[:, None] > torch.arange(tokens, device=logits.device)
    return straight_through(mean.ceil(), mean), chance @ more.to(chance.dtype)


def ranks(score: Tensor) -> Tensor:
    """The place of each token in the order of falling scores: [B, N]."""
    return score.argsort(-1, descending=True).argsort(-1)


def prune_and_merge(score: Tensor, unit: Tensor, slots: int, count: Tensor) -> PrunedAndMerged:
    """Outside of training: the best `slots` tokens stay, the next up to `count` join them.

    score: [B, N]. unit: [B, N, D], of length 1.
    """
    rank = ranks(score)
    order = score.argsort(-1, descending=True)[:, :slots]
    kept = unit.gather(1, order[..., None].expand(-1, -1, unit.shape[-1]))
    likeness, nearest = (unit @ kept.transpose(1, 2)).max(-1)
    stays, joins = rank < slots, rank < count
    weight = (stays | joins).to(unit.dtype)
    part = torch.where(stays, 1.0, likeness.clamp_min(0) * weight)
    whole = Assigned.normalised(torch.where(stays, rank, nearest), weight, slots)
    return PrunedAndMerged(whole.slot, whole.weight, slots, part)


def prune_and_merge_softly(
    score: Tensor, unit: Tensor, mass: Tensor, counts: Tensor, beyond: Tensor
) -> Soft:
    """Training: what is beyond the two counts [2] loses its mass; beyond: P(n > j), [2, N]."""
    here = presence(mass.detach()) > HALF
    left = straight_through(here, presence(mass))
    rank = ranks(score.masked_fill(~here, -torch.inf))
    arrive = here.sum(1, keepdim=True)
    prune, merge = counts.detach()
    middle = torch.minimum(arrive, prune)
    moves = (rank >= merge) & (rank < middle)
    # what has left before keeps the gradient of the mask that it had
    pruned = straight_through((rank < prune) | ~here, beyond[0][rank])
    merged = straight_through(~moves, beyond[1][rank])
    # a count that takes nothing away has no part in it
    left = left * pruned.where(prune < arrive, 1.0) * merged.where(merge < middle, 1.0)

    stays = rank < torch.minimum(merge, middle)
    cosine = (unit @ unit.transpose(1, 2)).masked_fill(~stays[:, None], -torch.inf)
    likeness, partner = cosine.max(-1)
    goes = moves.to(mass.dtype)
    size = mass.detach().clamp_min(1)
    brought = (size * likeness).clamp_min(1)
    size = torch.where(moves, brought, size).scatter_add(1, partner, brought * goes)
    rows = torch.zeros_like(cosine).scatter(2, partner[..., None], goes[..., None])
    return Soft(torch.ones_like(mass), rows, masses(size, left))
