"""Every token belongs to one slot. Legend: B images, N tokens, P slots, D channels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from ltm.merge._bag import weighted_bags
from ltm.merge.base import Merge, at_least_float32


@dataclass(frozen=True)
class Assigned(Merge):
    """Every token belongs to one slot: hard support, soft weights. Costs N x D multiply-adds.

    slot: [B, N] integer, the slot of each token; every slot has at least one token.
    weight: [B, N] float, sums to 1 over the tokens of a slot.
    """

    slot: Tensor
    weight: Tensor
    slots: int

    @classmethod
    def normalised(cls, slot: Tensor, weight: Tensor, slots: int) -> Self:
        """From positive weights [B, N] of any scale, each slot's divided by their sum."""
        total = weight.new_zeros(slot.shape[0], slots).scatter_add(1, slot, weight)
        return cls(slot, weight / total.gather(1, slot), slots)

    def __call__(self, x: Tensor) -> Tensor:
        B, N, D = x.shape
        bag = (self.slot + self.slots * torch.arange(B, device=x.device)[:, None]).flatten()
        rows = at_least_float32(x.reshape(B * N, D))
        weight = self.weight.flatten().to(rows.dtype)
        if torch.compiler.is_compiling():
            # the compiler fuses this form, and ONNX knows it
            target = bag[:, None].expand(-1, D)
            zeros = rows.new_zeros(B * self.slots, D)
            merged = zeros.scatter_add(0, target, rows * weight[:, None])
        else:
            # no [B, N, D] temporaries: three times faster on CPU, forward and backward
            order = bag.argsort()
            merged = weighted_bags(rows, weight[order], order, bag[order], B * self.slots)
        return merged.view(B, self.slots, D).to(x.dtype)

    def after(self, first: int, x: Tensor) -> Tensor:
        if not first:
            return self(x)
        # each of the first tokens has a slot of its own: nothing is cut apart and put together
        B = x.shape[0]
        own = torch.arange(first, device=x.device).expand(B, first)
        slot = torch.cat([own, self.slot + first], 1)
        weight = F.pad(self.weight, (first, 0), value=1.0)
        return replace(self, slot=slot, weight=weight, slots=first + self.slots)(x)

    def then(self, other: Assigned) -> Self:
        """This merge and another one of its slots, as one."""
        slot, weight = (x.gather(1, self.slot) for x in (other.slot, other.weight))
        return replace(self, slot=slot, weight=self.weight * weight, slots=other.slots)

    def repeated(self, times: int) -> Self:
        slot, weight = (x.repeat_interleave(times, 0) for x in (self.slot, self.weight))
        return replace(self, slot=slot, weight=weight)

    def unmerge(self, y: Tensor) -> Tensor:
        return y.gather(1, self.slot[..., None].expand(-1, -1, y.shape[-1]))

    def weights(self) -> Tensor:
        B, N = self.slot.shape
        G = self.weight.new_zeros(B, N, self.slots)
        return G.scatter(2, self.slot[..., None], self.weight[..., None])

    def sizes(self, mass: Tensor | None = None) -> Tensor:
        mass = torch.ones_like(self.weight) if mass is None else mass
        return mass.new_zeros(mass.shape[0], self.slots).scatter_add(1, self.slot, mass)


@dataclass(frozen=True)
class NormKept(Assigned):
    """MLERP (ToFu, arXiv 2312.01026): the direction of the mean, the norm of the largest token.

    A mean of tokens that point apart is shorter than they are, which later layers never saw.
    """

    linear = False
    after = Merge.after  # a token alone in its slot is rounded, the first ones must stay

    def __call__(self, x: Tensor) -> Tensor:
        mean = at_least_float32(super().__call__(x))
        norm = at_least_float32(x).norm(dim=-1)
        largest = norm.new_zeros(x.shape[0], self.slots).scatter_reduce(1, self.slot, norm, "amax")
        return (F.normalize(mean, dim=-1) * largest[..., None]).to(x.dtype)


@dataclass(frozen=True)
class MaxMagnitude(Assigned):
    """In every channel the value that is farthest from 0 (CubistMerge, arXiv 2509.21764)."""

    linear = False

    def __call__(self, x: Tensor) -> Tensor:
        B, N, D = x.shape
        number = torch.arange(N, device=x.device).expand(B, N)
        image = N * torch.arange(B, device=x.device)[:, None]
        rows = x.reshape(B * N, D)
        # most slots have one token: only those beyond the first are compared
        empty = number.new_full((B, self.slots), N)
        first = empty.scatter_reduce(1, self.slot, number, "amin")
        beyond = torch.ones_like(number).scatter(1, first, 0)
        beyond = beyond.argsort(1, descending=True)[:, : N - self.slots]
        slot = self.slot.gather(1, beyond)[..., None].expand(-1, -1, D)
        other, own = (
            rows.index_select(0, (index + image).flatten()).view(*index.shape, D)
            for index in (beyond, first)
        )
        top, bottom = (own.scatter_reduce(1, slot, other, how) for how in ("amax", "amin"))
        return torch.where(top >= -bottom, top, bottom)
