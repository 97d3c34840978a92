"""One value for every way of merging tokens.

Legend: B images, N source tokens, P slots (merged tokens, P <= N), D channels, K sources a slot.

A method decides; the decision is a `Merge`. A caller can apply it, undo it, ask which
source tokens made which slot, and how many tokens a slot stands for. Rows of the mask G of the
paper (arXiv 2407.15219, section 3) become columns of `weights()`: merged tokens are G^T Z. Not all
that methods do is a mean: every merge declares what holds for its slots.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision in float32, and float64 as it is: what weights are computed in."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Merge(ABC):
    """How N source tokens become P slots.

    What holds, by default:

    linear: a slot is the sum of its sources by `weights()`: merging x gives G^T x. Where it does
        not hold, `weights()` says which sources a slot stands for, and how much each counts.
    convex: weights are non-negative, and those of every slot that is there sum to 1.
    keeps_mass: `sizes` add up to the mass that came in.

    present: [B, P] bool, the slots that are there; the others are padding, of size 0. None: all.
    attention: [B, H, T, T], query by key, prefix + P tokens: a map that the block is to use in the
        place of a new one. Only of a method that acts on the input of a block.
    """

    linear: bool = True
    convex: bool = True
    keeps_mass: bool = True
    present: Tensor | None = None
    attention: Tensor | None = None

    slots: int

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """Merge: x [B, N, D] -> [B, P, D], in the dtype of x."""

    def after(self, first: int, x: Tensor) -> Tensor:
        """Merge what comes after the first tokens: [B, first + N, D] -> [B, first + P, D]."""
        return torch.cat([x[:, :first], self(x[:, first:])], 1) if first else self(x)

    def alongside(self, x: Tensor) -> Tensor:
        """Merge other features of the same tokens, of any width, in the same way."""
        return self(x)

    @abstractmethod
    def unmerge(self, y: Tensor) -> Tensor:
        """Bring slots back to the places of their sources: y [B, P, D] -> [B, N, D].

        A token that was dropped gets 0.
        """

    @abstractmethod
    def weights(self) -> Tensor | None:
        """The mask G, [B, N, P] in float32 or float64. None where no weights say what a slot is
        made of."""

    @abstractmethod
    def repeated(self, times: int) -> Merge:
        """The same merge for each of `times` consecutive rows: [B, ...] -> [B x times, ...]."""

    @abstractmethod
    def sizes(self, mass: Tensor | None = None) -> Tensor:
        """How many source tokens every slot carries, [B, P].

        `mass` [B, N] is what each source already carries (1 when omitted).
        """

    def carried(self, amount: Tensor) -> Tensor:
        """Any other amount that adds up, from sources [B, N] to slots [B, P]."""
        return self.sizes(amount)

    def kept(self, places: Tensor) -> Tensor | None:  # noqa: ARG002
        """Which tokens the slots are, of a merge that leaves tokens as they are or drops them.

        places [B, N] integer, a number for each source, -1 for what is no token of the image ->
        [B, P], that of the source that a slot is, -1 for a slot that is none. None where slots are
        made of several.
        """
        return None
