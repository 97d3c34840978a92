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


def merge_in_sequence(metric: Tensor, mass: Tensor, slots: int, *, prefix: int) -> Assigned:
    """ToMe's step on metric [B, N, d] and mass [B, N], with slots in that order."""
    a, b = sides(prefix)
    unit = F.normalize(metric, dim=-1)
    likeness, partner = (unit[:, a] @ unit[:, b].transpose(1, 2)).max(-1)
    B, sources = likeness.shape
    leave = metric.shape[1] - slots
    gone = likeness.argsort(-1, descending=True)[:, :leave]
    left = sources - leave
    stays = torch.ones_like(partner).scatter(1, gone, 0)
    slot = (stays.cumsum(1) - 1).where(stays == 1, left + partner)
    others = torch.arange(left, slots, device=metric.device).expand(B, -1)
    where = by_sides(metric.shape[1], prefix, metric).expand(B, -1)
    slot = torch.empty_like(where).scatter(1, where, torch.cat([slot, others], 1))
    return Assigned.normalised(slot, mass, slots)
