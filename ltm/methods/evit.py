"""EViT (Liang et al., arXiv 2202.07800): keep attentive tokens, fuse all others into one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from ltm.interfaces import Method
from ltm.merge import Assigned, Merge, at_least_float32
from ltm.methods._registry import register_method
from ltm.methods.topk import best

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from ltm.interfaces import Evidence, Grids, SiteInput, SiteKind, Spread


@dataclass(frozen=True)
class Fused(Assigned):
    """Tokens that stay, of weight 1, and a last slot: the sum of all others by their weights."""

    convex = False


@register_method("evit")
class ReorganiseTokens(Method):
    """EViT (arXiv 2202.07800), between attention and MLP.

    With a_i the attention from the class token to token i, mean over heads, the tokens of the
    largest a stay. The others become one token, sum_i a_i x_i, whose weights do not add up to 1: it
    is appended, and later takes part as any other token does. Attention knows no sizes. A
    compression ratio r keeps r, r^2 and r^3 of the image's tokens, the fused one among them, after
    blocks 3, 6 and 9 of 12, counted from 0.

    Learned: nothing. Regimes: fine-tuned (the paper's, 30 epochs), off-the-shelf, from scratch.

    The authors' code rounds up, and counts the fused token beside those kept: on 196 tokens, its
    keep rate of 0.7 is the plan {"blocks.3": 139, "blocks.6": 99, "blocks.9": 71}.

    Ours: without a class token it is the mean attention from all tokens.
    """

    needs: frozenset[Evidence] = frozenset({"class_attention"})
    proportional = False
    spread: Spread = "powers"
    grids: ClassVar[Grids] = "refused"
    why_no_grid = "it fuses the tokens that the class token attends least into one without a place"

    def __init__(self, sites: Mapping[str, SiteKind]) -> None:  # noqa: ARG002
        super().__init__()

    def forward(self, given: SiteInput) -> Merge:
        assert given.class_attention is not None
        attention = at_least_float32(given.class_attention).mean(1)
        return fuse(attention, given.site.slots)


def fuse(attention: Tensor, slots: int) -> Fused:
    """The slots - 1 tokens of the largest attention [B, N], in image order, then the fused one."""
    index = best(attention, slots - 1)
    kept = torch.zeros_like(attention, dtype=torch.long).scatter(1, index, 1)
    slot = torch.where(kept > 0, kept.cumsum(1) - 1, slots - 1)
    return Fused(slot, torch.where(kept > 0, 1.0, attention), slots)
