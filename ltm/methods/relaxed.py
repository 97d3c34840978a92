"""Hard decisions with the gradient of soft ones, for methods that learn what to remove.

Legend: B images, N tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from ltm.merge import at_least_float32

if TYPE_CHECKING:
    from torch import Tensor

LEFT_OVER = 1e-12  # of the mass of a token that is gone: its logarithm is finite, with a gradient


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """The value of `hard`, the gradient of `soft` (Bengio et al., arXiv 1308.3432)."""
    return soft + (hard.to(soft.dtype) - soft).detach()


def left_over(left: Tensor) -> Tensor:
    """Parts of masses that are left, in [0, 1], all above 0."""
    return left * (1 - LEFT_OVER) + LEFT_OVER


def masses(mass: Tensor, left: Tensor) -> Tensor:
    """Masses [B, N] of which the part `left` [B, N] is left, all above 0."""
    return left_over(mass * left)


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
