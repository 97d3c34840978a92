"""Top-K (Haurum et al., arXiv 2308.04657): keep the tokens that the class token attends to."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ltm.interfaces import Method
from ltm.merge import Merge, Selected, at_least_float32
from ltm.methods._registry import register_method

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from ltm.interfaces import Evidence, Grids, SiteInput, SiteKind, Spread


def best(score: Tensor, count: int) -> Tensor:
    """Numbers of the `count` tokens of the largest score [B, N], in image order: [B, count]."""
    return score.detach().argsort(-1, descending=True)[:, :count].sort(-1).values


@register_method("topk")
class TopK(Method):
    """Top-K of "Which Tokens to Use?" (arXiv 2308.04657), between attention and MLP.

    The K tokens with the most attention from the class token, mean over heads, stay; all others
    are dropped. Attention knows no sizes. A compression ratio r keeps r, r^2 and r^3 of the image's
    tokens after blocks 3, 6 and 9 of 12, counted from 0, K rounded to the nearest number.

    Learned: nothing. Regimes: fine-tuned (the paper's), off-the-shelf, from scratch.

    Ours: without a class token it is the mean attention from all tokens.
    """

    needs: frozenset[Evidence] = frozenset({"class_attention"})
    proportional = False
    spread: Spread = "powers"
    grids: ClassVar[Grids] = "refused"
    why_no_grid = "it drops tokens wherever the class token attends least, in no rows or columns"

    def __init__(self, sites: Mapping[str, SiteKind]) -> None:  # noqa: ARG002
        super().__init__()

    def forward(self, given: SiteInput) -> Merge:
        assert given.class_attention is not None
        attention = at_least_float32(given.class_attention).mean(1)
        index = best(attention, given.site.slots)
        return Selected(index, attention.shape[1], dtype=attention.dtype)
