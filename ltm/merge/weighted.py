"""Every slot is a sum of tokens with weights of its own.

Legend: B images, N tokens, P slots, D channels, K sources a slot.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ltm.merge._bag import weighted_bags
from ltm.merge.base import Merge, at_least_float32


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
        rows = at_least_float32(x)
        weight = self.weight.to(rows.dtype)
        if torch.compiler.is_compiling():
            merged = (weight[..., None] * rows[:, self.index]).sum(2)
        else:
            # twenty times faster on CPU than gathering [B, P, K, D]
            image = N * torch.arange(B, device=x.device)[:, None, None]
            merged = weighted_bags(
                rows.reshape(B * N, D),
                weight.reshape(-1),
                (self.index + image).flatten(),
                torch.arange(B * P, device=x.device).repeat_interleave(K),
                B * P,
            )
        return merged.view(B, P, D).to(x.dtype)

    def repeated(self, times: int) -> Local:
        return Local(self.index, self.weight.repeat_interleave(times, 0), self.tokens)

    def unmerge(self, y: Tensor) -> Tensor:
        return _product(_shares(self.weights()), y)

    def weights(self) -> Tensor:
        B, P, K = self.weight.shape
        G = self.weight.new_zeros(B, P, self.tokens)
        return G.scatter(2, self.index.expand(B, P, K), self.weight).transpose(1, 2)

    def sizes(self, mass: Tensor | None = None) -> Tensor:
        share = _shares(self.weights())
        return share.sum(1) if mass is None else (share * mass[..., None]).sum(1)


@dataclass(frozen=True)
class Weighted(Merge):
    """Any weights: sums in the place of means, dense masks, tokens that are dropped.

    Costs N x P x D multiply-adds.

    G: [B, N, P] float; a token whose row is 0 is dropped.
    convex, keeps_mass: whether that holds for G, as `Merge` has it.
    """

    G: Tensor
    present: Tensor | None = None
    convex: bool = False
    keeps_mass: bool = False

    @property
    def slots(self) -> int:  # type: ignore[override]
        return self.G.shape[2]

    def __call__(self, x: Tensor) -> Tensor:
        return _product(self.G.transpose(1, 2), x)

    def repeated(self, times: int) -> Weighted:
        present = None if self.present is None else self.present.repeat_interleave(times, 0)
        return replace(self, G=self.G.repeat_interleave(times, 0), present=present)

    def unmerge(self, y: Tensor) -> Tensor:
        return _product(_shares(self.G), y)

    def weights(self) -> Tensor:
        return self.G

    def sizes(self, mass: Tensor | None = None) -> Tensor:
        share = _shares(self.G)
        return share.sum(1) if mass is None else (share * mass[..., None]).sum(1)


def _product(G: Tensor, x: Tensor) -> Tensor:
    """G @ x in full precision, in the dtype of x."""
    rows = at_least_float32(x)
    return (G.to(rows.dtype) @ rows).to(x.dtype)


def _shares(G: Tensor) -> Tensor:
    """How each token divides itself among the slots: [B, N, P], rows sum to 1, or 0 if dropped."""
    size = G.abs()
    return size / size.sum(2, keepdim=True).clamp_min(torch.finfo(G.dtype).tiny)
