"""One value for every way of merging tokens.

Legend: B images, N source tokens, P slots (merged tokens, P <= N), D channels, K sources a slot.

A method decides; the decision is a `Merge`. Whoever holds one can apply it, undo it, ask which
source tokens made which slot, and how many tokens a slot stands for. Rows of the mask G of the
paper (arXiv 2407.15219, section 3) become columns of `weights()`: merged tokens are G^T Z.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

_SMALLEST = 1e-6  # of a sum of weights


class Merge(ABC):
    """How N source tokens become P slots, every slot a convex combination of its sources.

    A method may represent a slot otherwise than by the mean; `weights()` is that of the mean.
    """

    slots: int

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """Merge: x [B, N, D] -> [B, P, D], in the dtype of x."""

    def after(self, first: int, x: Tensor) -> Tensor:
        """Merge what comes after the first tokens: [B, first + N, D] -> [B, first + P, D]."""
        return torch.cat([x[:, :first], self(x[:, first:])], 1) if first else self(x)

    @abstractmethod
    def unmerge(self, y: Tensor) -> Tensor:
        """Bring slots back to the places of their sources: y [B, P, D] -> [B, N, D]."""

    @abstractmethod
    def weights(self) -> Tensor:
        """The mask G, [B, N, P] in float32: non-negative, every column sums to 1."""

    @abstractmethod
    def repeated(self, times: int) -> Merge:
        """The same merge for each of `times` consecutive rows: [B, ...] -> [B x times, ...]."""

    @abstractmethod
    def sizes(self, mass: Tensor | None = None) -> Tensor:
        """How many source tokens every slot carries, [B, P].

        `mass` [B, N] is what each source already carries (1 when omitted); its total is kept.
        """


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
        rows = x.reshape(B * N, D).float()
        weight = self.weight.flatten()
        if torch.compiler.is_compiling():
            # the compiler fuses this form, and ONNX knows it
            target = bag[:, None].expand(-1, D)
            zeros = rows.new_zeros(B * self.slots, D)
            merged = zeros.scatter_add(0, target, rows * weight[:, None])
        else:
            # no [B, N, D] temporaries: three times faster on CPU, forward and backward
            order = bag.argsort()
            starts = torch.searchsorted(
                bag[order], torch.arange(B * self.slots, device=x.device, dtype=bag.dtype)
            )
            merged = F.embedding_bag(
                order, rows, starts, mode="sum", per_sample_weights=weight[order]
            )
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

    after = Merge.after  # a token alone in its slot is rounded, the first ones must stay

    def __call__(self, x: Tensor) -> Tensor:
        mean = super().__call__(x).float()
        norm = x.float().norm(dim=-1)
        largest = norm.new_zeros(x.shape[0], self.slots).scatter_reduce(1, self.slot, norm, "amax")
        return (F.normalize(mean, dim=-1) * largest[..., None]).to(x.dtype)


@dataclass(frozen=True)
class MaxMagnitude(Assigned):
    """In every channel the value that is farthest from 0 (CubistMerge, arXiv 2509.21764)."""

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
            rows.index_select(0, (index + image).flatten()).view(B, -1, D)
            for index in (beyond, first)
        )
        top, bottom = (own.scatter_reduce(1, slot, other, how) for how in ("amax", "amin"))
        return torch.where(top >= -bottom, top, bottom)


@dataclass(frozen=True)
class Soft(Merge):
    """A merge in training that removes nothing: tokens stay in place and lose their mass.

    What a hard merge decides by comparing has no gradient. Here slot s is token s, which takes in
    others in part; `mass` says how much of it is left, for attention and pooling to heed. Slots
    beyond the tokens are new ones.

    own: [B, S], weight of each slot's own token, 0 for a new slot.
    incoming: [B, N, S], weight of each token in the slots of others.
    mass: [B, S], above 0; what `sizes` returns.
    """

    own: Tensor
    incoming: Tensor
    mass: Tensor

    @property
    def slots(self) -> int:  # type: ignore[override]
        return self.own.shape[1]

    def __call__(self, x: Tensor) -> Tensor:
        own = F.pad(x, (0, 0, 0, self.slots - x.shape[1])).float()
        total = (self.own + self.incoming.sum(1)).clamp_min(_SMALLEST)[..., None]
        taken = self.incoming.transpose(1, 2) @ x.float()
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


def presence(mass: Tensor) -> Tensor:
    """How much of each token of a `Soft` merge is left, at most 1, with a gradient everywhere."""
    return mass / mass.detach().clamp_min(1)


@dataclass(frozen=True)
class Local(Merge):
    """Every slot sees K fixed tokens around its anchor. Costs P x K x D multiply-adds.

    index: [P, K] integer, the sources of each slot, the same for all images; every token is
        a source of some slot.
    weight: [B, P, K] float, sums to 1 over K.
    tokens: N.
    """

    index: Tensor
    weight: Tensor
    tokens: int

    @property
    def slots(self) -> int:  # type: ignore[override]
        return len(self.index)

    def __call__(self, x: Tensor) -> Tensor:
        B, N, D = x.shape
        P, K = self.index.shape
        if torch.compiler.is_compiling():
            merged = (self.weight[..., None] * x[:, self.index].float()).sum(2)
        else:
            # twenty times faster on CPU than gathering [B, P, K, D]
            image = N * torch.arange(B, device=x.device)[:, None, None]
            merged = F.embedding_bag(
                (self.index + image).view(B * P, K),
                x.reshape(B * N, D).float(),
                mode="sum",
                per_sample_weights=self.weight.reshape(B * P, K),
            )
        return merged.view(B, P, D).to(x.dtype)

    def repeated(self, times: int) -> Local:
        return Local(self.index, self.weight.repeat_interleave(times, 0), self.tokens)

    def unmerge(self, y: Tensor) -> Tensor:
        share = self._shares()
        return (share @ y.float()).to(y.dtype)

    def weights(self) -> Tensor:
        B, P, K = self.weight.shape
        G = self.weight.new_zeros(B, P, self.tokens)
        return G.scatter(2, self.index.expand(B, P, K), self.weight).transpose(1, 2)

    def sizes(self, mass: Tensor | None = None) -> Tensor:
        share = self._shares()
        return share.sum(1) if mass is None else (share * mass[..., None]).sum(1)

    def _shares(self) -> Tensor:
        """How each token divides itself among the slots that see it: [B, N, P], rows sum to 1."""
        G = self.weights()
        return G / G.sum(2, keepdim=True).clamp_min(torch.finfo(G.dtype).tiny)
