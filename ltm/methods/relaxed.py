"""Hard decisions with the gradient of soft ones, for methods that learn what to remove.

Legend: B images, N tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from ltm.merge import Soft, at_least_float32

if TYPE_CHECKING:
    from torch import Tensor

LEFT_OVER = 1e-12  # of the mass of a token that is gone: its logarithm is finite, with a gradient


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """The value of `hard`, the gradient of `soft` (Bengio et al., arXiv 1308.3432)."""
    return soft + (hard.to(soft.dtype) - soft).detach()


def masses(mass: Tensor, left: Tensor) -> Tensor:
    """Masses [B, N] of which the part `left` [B, N] is left, all above 0."""
    return (mass * left) * (1 - LEFT_OVER) + LEFT_OVER


def partial_merge(mass: Tensor, goes: Tensor, rows: Tensor, stays: Tensor | None = None) -> Soft:
    """Part of each A token, those with even numbers, joins other tokens; all stay.

    mass: [B, N]. goes: [B, N - N // 2], the part of each A token that goes. rows: [B, N - N // 2,
    N], the mass that it takes to each token. stays: [B, N], the part of a token that is not pruned.
    """
    N = mass.shape[1]
    incoming = torch.stack([rows, torch.zeros_like(rows)], 2).flatten(1, 2)[:, :N]
    left = torch.stack([1 - goes, torch.ones_like(goes)], 2).flatten(1)[:, :N]
    left = left if stays is None else left * stays
    return Soft(mass, incoming, masses(mass + incoming.sum(1), left))


class Threshold(nn.Module):
    """A learned threshold: 1 where a value is above it, else 0; backward as a sigmoid.

    The gradient is that of sigmoid((v - theta) / tau).
    """

    def __init__(self, start: float, tau: float) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([start]))
        self.tau = tau

    def forward(self, values: Tensor) -> Tensor:
        """Values of any shape -> the same shape, 0 or 1."""
        over = values - at_least_float32(self.theta)
        return straight_through(over > 0, (over / self.tau).sigmoid())

    def passed(self, values: Tensor) -> Tensor:
        """Values of any shape -> bool."""
        return values > at_least_float32(self.theta)
