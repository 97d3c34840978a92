"""Rotary positions of tokens, which travel with tokens that merge.

Legend: B images, N tokens of the image, P slots, H heads, E = 2 x the channels of a head.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ltm.merge import Merge

_TINY = 1e-6


@dataclass(frozen=True)
class Rotary:
    """By how much queries and keys of the image's tokens are turned (RoPE, arXiv 2104.09864).

    A slot has the mean direction of its sources' angles, weighed as its features are: the sines
    and cosines are merged, and brought back to length 1. Where they cancel, it is not turned. The
    position of a token that leaves others behind is its own.

    table: sines, then cosines, as timm has them: [N, E], for every head [H, N, E], or by depth
        [depth, H, N, E]. After a merge each image has its own: B comes first.
    by_depth: whether every block has its own. depth: the block.
    """

    table: Tensor
    by_depth: bool = False
    of_image: bool = False
    depth: int = 0

    def at(self, depth: int) -> Rotary:
        """In the block of that number."""
        return replace(self, depth=depth)

    @property
    def here(self) -> Tensor:
        """What turns queries [B, H, N, d] of this block: [N, E], [H, N, E], or with B before H."""
        if self.by_depth:
            return self.table[:, self.depth] if self.of_image else self.table[self.depth]
        return self.table[:, None] if self.of_image and self.table.ndim == 3 else self.table

    def merged(self, merge: Merge) -> Rotary:
        """That of the slots."""
        images = merge.sizes().shape[0]
        table = self.table if self.of_image else self.table.expand(images, *self.table.shape)
        between = table.shape[1:-2]  # depth and heads
        flat = table.movedim(-2, 1).flatten(2)
        weights = None if merge.linear else merge.weights()
        slots = merge.alongside(flat) if weights is None else weights.to(flat).mT @ flat
        slots = slots.unflatten(2, (*between, -1)).movedim(1, -2)
        sine, cosine = slots.float().chunk(2, -1)
        square = sine.square() + cosine.square()
        turned = square > _TINY**2
        length = square.clamp_min(_TINY**2).sqrt()
        sine, cosine = (sine / length).where(turned, 0.0), (cosine / length).where(turned, 1.0)
        return replace(self, table=torch.cat([sine, cosine], -1).to(self.table), of_image=True)
