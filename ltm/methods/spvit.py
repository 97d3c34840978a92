"""Soft token pruning, SPViT (Kong et al., arXiv 2112.13890): selectors and package tokens."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltm.errors import FieldError
from ltm.merge import Masked, Merge, Selected, WithPackage, at_least_float32
from ltm.methods._options import WIDEST, check_whole
from ltm.methods._registry import register_method
from ltm.methods.relaxed import left_over
from ltm.methods.selectors import SelectorMethod, best, draw, half_global, narrowing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ltm.interfaces import Site, SiteKind


class Scores(NamedTuple):
    """logs: [B, N, 2], of keep and drop, which decide. keep: [B, N], weights in a package."""

    logs: Tensor
    keep: Tensor


class Selector(nn.Module):
    """Scores that say how much a token is worth keeping, by heads of channels.

    Legend: H heads, d = D / H. For head i of a token, y_i = GELU(W LayerNorm(x_i)), d -> d, one
    half of whose channels gives way to its mean over the tokens that are there; then
    p_i = softmax(MLP(y_i)), d -> d/2 -> d/4 -> 2, for keep and drop. All heads share these weights.
    The head branch a = sigmoid(MLP'(mean of x_i's channels)), H -> H/2 -> H, divided by its sum
    over heads, weighs them: the decision is by sum_i a_i log p_i, the keep score s is the first of
    sum_i a_i p_i.
    """

    def __init__(self, dim: int, heads: int | None = None) -> None:
        super().__init__()
        self.heads = heads or _heads(dim)
        each, fewer = dim // self.heads, max(1, self.heads // 2)
        self.project = nn.Sequential(nn.LayerNorm(each), nn.Linear(each, each), nn.GELU())
        self.score = narrowing(each)
        self.branch = nn.Sequential(
            nn.Linear(self.heads, fewer), nn.GELU(), nn.Linear(fewer, self.heads), nn.Sigmoid()
        )

    def forward(self, tokens: Tensor, present: Tensor) -> Scores:
        """tokens [B, N, D], present [B, N] in [0, 1]."""
        x = tokens.unflatten(2, (self.heads, -1))
        weight = at_least_float32(self.branch(x.mean(-1)))
        weight = (weight / weight.sum(-1, keepdim=True))[..., None]
        logits = self.score(half_global(self.project(x), present))
        logs = at_least_float32(logits).log_softmax(-1)
        return Scores((logs * weight).sum(2), (logs.exp() * weight).sum(2)[..., 0])


@register_method("spvit")
class SoftPruning(SelectorMethod):
    """SPViT (arXiv 2112.13890): selectors drop tokens, each into a package token that stays.

    At the input of the blocks at a quarter, a half and three quarters of the depth (3, 6 and 9 of
    12, counted from 0) Gumbel-softmax decides by `Selector`'s scores about every token of the image
    that is left. What a selector drops becomes one more token, the sum of s x, with s the keep
    score; packages are never dropped, and later selectors see them. In training all tokens stay in
    place, and those that were dropped are masked out of attention, that of the block itself
    included, except for their own. The loss adds
    ratio_weight x mean over selectors of (kept share - the plan's)^2; the paper's shares are
    0.617, 0.369 and 0.137.

    Learned: the selectors, and all weights at a constant hundredth of the selectors' first rate.
    Regime: fine-tuned for 30 epochs with the unpruned network as teacher
    (`jobs/spvit_vit_s.yaml`).

    Ours: outside of training a batch stays rectangular: the tokens of the best odds of keep over
    drop stay, where the paper's code draws again. A plan counts packages: 122 at the first selector
    are 121 tokens and a package. Where it leaves no room for one more package, the last one takes
    in those that find none. The package is the sum at inference, too, where the authors' file for
    it takes a mean over the batch. The mask of a token that was dropped is 1e-12, in the place of 0
    and the authors' 1e-6 / N on every weight.

    heads: how many parts the channels are scored in; one for every 64 channels when omitted.
    blocks: those with a selector, as numbers; null is the paper's.
    ratio_weight: 2, the weight of the keep-ratio term.
    """

    why_no_grid = "it drops tokens anywhere in the image, and its packages have no place there"

    def __init__(
        self,
        sites: Mapping[str, SiteKind],
        heads: int | None = None,
        blocks: Sequence[int] | None = None,
        ratio_weight: float = 2.0,
    ) -> None:
        heads = None if heads is None else check_whole("heads", heads, WIDEST)
        for site in sites.values():
            if heads is not None and site.dim % heads:
                raise FieldError("options.heads", heads, f"what divides {site.dim} channels")
        super().__init__(sites, partial(Selector, heads=heads), blocks, ratio_weight)
        self._came: dict[str, int] = {}

    def prepare(self, sites: Mapping[str, Site], like: Tensor) -> None:
        super().prepare(sites, like)
        self._came, came = {}, 0
        for name, site in sites.items():
            self._came[name] = came
            came = min(came, site.slots - 1) + 1

    def decide(self, site: Site, seen: Scores, present: Tensor) -> Merge:
        came = self._came.get(site.name, 0)
        stay = min(came, site.slots - 1)
        kept = site.slots - 1 - stay
        if self.training:
            made = 0 if self._first is None else present.shape[1] - self._first
            return self._masked(site, seen, present, made, kept)
        image = present.shape[1] - came
        index = best(seen.logs[:, :image], kept)
        packages = torch.arange(image, image + stay, device=index.device)
        index = torch.cat([index, packages.expand(index.shape[0], -1)], 1)
        weight = F.pad(seen.keep[:, :image], (0, came), value=1.0).scatter(1, index, 0.0)
        return WithPackage(Selected(index, present.shape[1], dtype=present.dtype), weight)

    def _masked(self, site: Site, seen: Scores, present: Tensor, made: int, kept: int) -> Merge:
        """made: the packages among the tokens, the last of them."""
        image = present.shape[1] - made
        stays = F.pad(draw(seen.logs)[:, :image], (0, made), value=1.0)
        left = present * stays
        self.note(site, left[:, :image].mean(), kept)
        return WithPackage(Masked(left_over(left)), present * (1 - stays) * seen.keep)


def _heads(dim: int) -> int:
    return next(heads for heads in range(max(1, dim // 64), 0, -1) if dim % heads == 0)
