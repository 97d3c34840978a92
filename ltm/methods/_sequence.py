"""The order of tokens in ToMe's own code, which others build on, where no grid has to stay.

Tokens before those of the image count when the sequence splits alternately in A and B, and after a
matching tokens lie as A tokens that are left, then B tokens. The next block splits that anew.

Legend: B images, N tokens, P slots, d channels of the metric.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ltm.merge import Assigned


def sides(prefix: int) -> tuple[slice, slice]:
    """A and B among the image's tokens when `prefix` others stand before them."""
    return slice(prefix % 2, None, 2), slice(1 - prefix % 2, None, 2)


def by_sides(tokens: int, prefix: int, like: Tensor) -> Tensor:
    """Numbers of all A tokens, then of all B tokens, [N], on the device of `like`."""
    number = torch.arange(tokens, device=like.device)
    return torch.cat([number[side] for side in sides(prefix)])


def cosines(metric: Tensor, prefix: int) -> Tensor:
    """Between all A and all B tokens, [B, tokens of A, tokens of B], for metric [B, N, d]."""
    a, b = sides(prefix)
    unit = F.normalize(metric, dim=-1)
    return unit[:, a] @ unit[:, b].transpose(1, 2)


def merge_in_sequence(
    metric: Tensor, mass: Tensor, slots: int, *, prefix: int, by_likeness: bool = False
) -> Assigned:
    """ToMe's step on metric [B, N, d] and mass [B, N], with slots in that order.

    by_likeness: A tokens that are left lie by falling similarity, not as they came.
    """
    B, N, _ = metric.shape
    leave = N - slots
    likeness, partner = cosines(metric, prefix).max(-1)
    rank = likeness.argsort(-1, descending=True)
    gone, stay = rank[:, :leave], rank[:, leave:]
    stay = stay if by_likeness else stay.sort(-1).values

    kept = torch.arange(slots, device=metric.device).expand(B, -1)
    of_a, of_b = kept.split([stay.shape[1], slots - stay.shape[1]], 1)
    slot_of_a = torch.zeros_like(partner).scatter(1, stay, of_a)
    slot_of_a = slot_of_a.scatter(1, gone, of_b.gather(1, partner.gather(1, gone)))
    where = by_sides(N, prefix, metric).expand(B, -1)
    slot = torch.empty_like(where).scatter(1, where, torch.cat([slot_of_a, of_b], 1))
    return Assigned.normalised(slot, mass, slots)
