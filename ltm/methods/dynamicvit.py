"""DynamicViT (Rao et al., arXiv 2106.02034): tokens leave by learned scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from ltm.merge import Masked, Merge, Selected, at_least_float32
from ltm.methods._registry import register_method
from ltm.methods.relaxed import left_over
from ltm.methods.selectors import SelectorMethod, best, draw, half_global, narrowing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ltm.interfaces import Site, SiteKind


class Selector(nn.Module):
    """Scores of keep and drop: y = GELU(W LayerNorm(x)), one half of whose channels gives way to
    its mean over the tokens that are there, then log-softmax(MLP(y)), D -> D/2 -> D/4 -> 2.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU())
        self.score = narrowing(dim)

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        """tokens [B, N, D], present [B, N] -> log-probabilities [B, N, 2]."""
        logits: Tensor = self.score(half_global(self.project(tokens), present))
        return at_least_float32(logits).log_softmax(-1)


@register_method("dynamicvit")
class DynamicTokens(SelectorMethod):
    """DynamicViT (arXiv 2106.02034): before three blocks a `Selector` drops tokens for good.

    At a quarter, a half and three quarters of the depth (before blocks 3, 6 and 9 of 12, counted
    from 0) r, r^2 and r^3 of the image's tokens stay, the paper's r being 0.7. In training
    Gumbel-softmax decides about every token that is left, all tokens stay in place, and attention
    of that block and of those after it is exp(q_i k_j) G_ij / sum_j exp(q_i k_j) G_ij, where G_ij
    is 1 for a token that is kept and for i = j, else 0. Outside of training the tokens of the
    highest scores stay, as many as the plan says. The loss adds
    ratio_weight x mean over selectors and images of (kept share - the plan's)^2.

    Learned: the selectors, and all weights at a hundredth of their rate. Regime: fine-tuned for 30
    epochs with the unpruned network as teacher (`jobs/dynamicvit_vit_s.yaml`).

    Ours: G of a token that was dropped is 1e-12, in the place of 0 and the authors' 1e-6 / N on
    every weight.

    blocks: those with a selector in front of them, as numbers; null is the paper's.
    ratio_weight: 2, the weight of the keep-ratio term.
    """

    why_no_grid = "it drops tokens anywhere in the image, each by a score of its own"

    def __init__(
        self,
        sites: Mapping[str, SiteKind],
        blocks: Sequence[int] | None = None,
        ratio_weight: float = 2.0,
    ) -> None:
        super().__init__(sites, Selector, blocks, ratio_weight)

    def decide(self, site: Site, seen: Tensor, present: Tensor) -> Merge:
        if not self.training:
            return Selected(best(seen, site.slots), present.shape[1], dtype=present.dtype)
        left = present * draw(seen)
        self.note(site, left.mean(1), site.slots)
        return Masked(left_over(left))
