"""Adaptive Token Sampling, ATS (Fayyaz et al., arXiv 2111.15667): fewer tokens of easy images."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch

from ltm.interfaces import Method
from ltm.merge import Merge, Selected, at_least_float32
from ltm.methods._registry import register_method

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from ltm.interfaces import Evidence, Grids, SiteInput, SiteKind, Spread

_BEYOND = 2.0  # where padding lies: farther from every quantile than any sum of shares


@register_method("ats")
class AdaptiveTokenSampling(Method):
    """ATS (arXiv 2111.15667), between attention and MLP.

    The significance of a token is the attention from the class token times the norm of its value,
    summed over heads; over the tokens of an image it is made a distribution. Its cumulative sum, in
    image order, is sampled at the P quantiles 1/2K, 3/2K, ... (2K - 3)/2K, with K = P + 1 and P
    what the plan keeps: each takes the token of the nearest sum. A token that is sampled more than
    once stays once, all others are dropped: at most P stay, and fewer where few are significant.
    Attention knows no sizes. A compression ratio r sets P to r, r^2 and r^3 of the image's tokens
    after blocks 3, 6 and 9 of 12, counted from 0.

    Learned: nothing. Regimes: off-the-shelf and fine-tuned (the paper's), from scratch.

    Costs: published MACs are a mean over images. `ltm.count`, and a plan or budget, take P tokens
    of every image, which is the most that any image takes; the mean over images follows from how
    many slots are there (`Merge.present`).

    Ours: images of a batch are padded to P, with the padding masked. The block's attention is
    computed for all tokens, and the sampled ones go on; the published code multiplies the sampled
    rows of the map alone with the values, which gives the same. It adds 1e-6 to the sum that it
    divides by. Without a class token it is the mean attention from all tokens.
    """

    needs: frozenset[Evidence] = frozenset({"class_attention", "value_norms"})
    varies = True
    proportional = False
    spread: Spread = "powers"
    grids: ClassVar[Grids] = "refused"
    why_no_grid = "it samples another number of tokens of each image, wherever they lie"

    def __init__(self, sites: Mapping[str, SiteKind]) -> None:  # noqa: ARG002
        super().__init__()

    def forward(self, given: SiteInput) -> Merge:
        assert given.class_attention is not None
        assert given.value_norms is not None
        attention, norms = given.class_attention.detach(), given.value_norms.detach()
        significance = (at_least_float32(attention) * at_least_float32(norms)).sum(1)
        return sample(significance, given.site.slots, given.present)


def sample(significance: Tensor, slots: int, present: Tensor | None = None) -> Selected:
    """Tokens of an image by quantiles of their significance [B, N], each at most once.

    present: [B, N] bool, False for padding.
    """
    sums = (significance / significance.sum(-1, keepdim=True)).cumsum(-1)
    sums = sums if present is None else sums.masked_fill(~present, _BEYOND)
    number = torch.arange(slots, device=sums.device)
    quantile = (2 * number + 1).to(sums.dtype) / (2 * slots + 2)
    nearest = (quantile[:, None] - sums[:, None]).abs().argmin(-1)  # ascending, as both are
    new = torch.cat([torch.ones_like(nearest[:, :1]), nearest.diff(dim=1)], 1) > 0
    order = torch.where(new, number, number + slots).argsort(-1)  # what is new comes first
    return Selected(
        nearest.gather(1, order), significance.shape[1], new.gather(1, order), significance.dtype
    )
