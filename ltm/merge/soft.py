"""Merging in training that removes nothing. Legend: B images, N tokens, S slots."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ltm.merge.base import Merge, at_least_float32

_SMALLEST = 1e-6  # of a sum of weights
HALF = 0.5  # what must be left of a token, in training, to be there


@dataclass(frozen=True)
class Soft(Merge):
    """A merge in training that removes nothing: tokens stay in place and lose their mass.

    What a hard merge decides by comparing has no gradient. Here slot s is token s, which takes in
    others in part; `mass` says how much of it is left, for attention and pooling. Slots beyond the
    tokens are new ones.

    own: [B, S], weight of each slot's own token, 0 for a new slot.
    incoming: [B, N, S], weight of each token in the slots of others.
    mass: [B, S], above 0; what `sizes` returns.
    """

    # of a token that was pruned, or of an empty new slot, nothing is left to add up
    convex = False
    keeps_mass = False

    own: Tensor
    incoming: Tensor
    mass: Tensor

    @property
    def slots(self) -> int:  # type: ignore[override]
        return self.own.shape[1]

    def __call__(self, x: Tensor) -> Tensor:
        own = at_least_float32(F.pad(x, (0, 0, 0, self.slots - x.shape[1])))
        total = (self.own + self.incoming.sum(1)).clamp_min(_SMALLEST)[..., None]
        taken = self.incoming.transpose(1, 2).to(own.dtype) @ at_least_float32(x)
        return ((self.own[..., None] * own + taken) / total).to(x.dtype)

    def repeated(self, times: int) -> Soft:
        own, incoming, mass = (
            x.repeat_interleave(times, 0) for x in (self.own, self.incoming, self.mass)
        )
        return Soft(own, incoming, mass)

    def unmerge(self, y: Tensor) -> Tensor:
        return y[:, : self.incoming.shape[1]]

    def weights(self) -> Tensor:
        tokens = self.incoming.shape[1]
        G = self.incoming + torch.diag_embed(self.own)[:, :tokens]
        return G / G.sum(1, keepdim=True).clamp_min(_SMALLEST)

    def sizes(self, mass: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return self.mass

    def carried(self, amount: Tensor) -> Tensor:
        return F.pad(amount, (0, self.slots - amount.shape[1]))


@dataclass(frozen=True)
class Masked(Merge):
    """Dropping in training that removes nothing: tokens stay as they are and lose their mass.

    mass: [B, N], above 0 and at most 1, what is left of each token; what `sizes` returns.
    """

    keeps_mass = False

    mass: Tensor

    @property
    def slots(self) -> int:  # type: ignore[override]
        return self.mass.shape[1]

    def __call__(self, x: Tensor) -> Tensor:
        return x

    def after(self, first: int, x: Tensor) -> Tensor:  # noqa: ARG002
        return x

    def repeated(self, times: int) -> Masked:
        return Masked(self.mass.repeat_interleave(times, 0))

    def unmerge(self, y: Tensor) -> Tensor:
        return y * (self.mass >= HALF)[..., None]

    def weights(self) -> Tensor:
        return torch.diag_embed(torch.ones_like(self.mass))

    def sizes(self, mass: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return self.mass

    def carried(self, amount: Tensor) -> Tensor:
        return amount

    def kept(self, places: Tensor) -> Tensor:
        return places.where(self.mass >= HALF, -1)


def presence(mass: Tensor) -> Tensor:
    """How much of each token of a `Soft` merge is left, at most 1, with a gradient everywhere."""
    return mass / mass.detach().clamp_min(1)
