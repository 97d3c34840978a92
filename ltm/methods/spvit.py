"""Soft token pruning, SPViT (Kong et al., arXiv 2112.13890): selectors and a package token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltm.errors import FieldError
from ltm.interfaces import Method
from ltm.merge import Assigned, Merge, Soft, at_least_float32, presence
from ltm.methods._options import WIDEST, check_number, check_whole
from ltm.methods._precision import full_precision
from ltm.methods._registry import register_method
from ltm.methods.matching import reduce_site
from ltm.methods.relaxed import masses
from ltm.plan import quarters

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ltm.interfaces import SiteInput, SiteKind

_LEAST_SCORE = 1e-6


class Selector(nn.Module):
    """Scores that say how much a token is worth keeping, by heads of channels.

    Legend: H heads, d = D / H. For head i of a token, with local features l = MLP(x_i) and global
    ones g = mean over tokens of MLP'(x_i), (keep_i, drop_i) = softmax(MLP''([l, g])). The head
    branch weighs them by a = sigmoid(MLP'''(mean over channels of x)), over all heads:
    S = sum_i a_i (keep_i, drop_i) / sum_i a_i.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.dim, self.heads = dim, heads
        each = dim // heads
        half = max(1, each // 2)
        self.local = nn.Sequential(nn.Linear(each, half), nn.GELU())
        self.whole = nn.Sequential(nn.Linear(each, half), nn.GELU())
        self.score = nn.Sequential(nn.Linear(2 * half, half), nn.GELU(), nn.Linear(half, 2))
        self.head = nn.Sequential(
            nn.Linear(heads, max(1, heads // 2)), nn.GELU(), nn.Linear(max(1, heads // 2), heads)
        )

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.score.parameters()).dtype

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        """tokens [B, N, D], present [B, N] in [0, 1] -> probabilities of keep and drop, [B, N, 2].

        Tokens that are gone have no part in the global features.
        """
        x = F.layer_norm(at_least_float32(tokens), (self.dim,)).to(self._dtype)
        x = x.view(*x.shape[:2], self.heads, -1)
        there = (present / present.sum(1, keepdim=True)).to(x.dtype)[..., None, None]
        whole = (self.whole(x) * there).sum(1, keepdim=True)
        local = self.local(x)
        scores = self.score(torch.cat([local, whole.expand_as(local)], -1)).softmax(-1)
        weight = self.head(x.mean(-1)).sigmoid()[..., None]
        return at_least_float32((scores * weight).sum(2) / weight.sum(2))


@register_method("spvit")
class SoftPruning(Method):
    """SPViT (arXiv 2112.13890): selectors drop tokens into one package token, which stays.

    A compression ratio, the mean kept fraction over the blocks, is spent at three selectors, at a
    quarter, a half and three quarters of the depth (the paper's blocks 3, 6 and 9 of 12). In
    training a straight-through Gumbel-softmax of `Selector`'s scores decides about each token, all
    tokens stay, and dropped ones are masked out of the softmax. The package token is the mean of
    the dropped, weighted by their keep scores. The loss adds
    ratio_weight x sum over selectors of (kept fraction - the plan's)^2; distillation is the
    recipe's (`recipe.distill`).

    Learned: the selectors, together with all weights. Regimes: fine-tuned (the paper's), or from
    scratch. The paper takes the ratios from a latency table; here the plan says them.

    Ours: the selectors lie between attention and MLP of their block. A package of an earlier
    selector counts in the next one as one token of score 1. Outside of training a batch stays
    rectangular: the tokens of the highest scores stay, as many as the plan says, the package among
    them. Where a grid has to stay there is no place for a package: in training, too, within rows
    and then columns, a dropped token joins the kept one before it, weighted by the scores, from
    which alone selectors then learn; no ratio has to be learned.

    heads: how many parts the channels are scored in; one for every 64 channels when omitted.
    ratio_weight: 2, the weight of the keep-ratio term.
    """

    spread = "quarters"
    proportional = False
    learns_mass = True
    adds_to_loss = True

    def __init__(
        self, sites: Mapping[str, SiteKind], heads: int | None = None, ratio_weight: float = 2.0
    ) -> None:
        super().__init__()
        self.ratio_weight = check_number("ratio_weight", ratio_weight)
        heads = None if heads is None else check_whole("heads", heads, WIDEST)
        for site in sites.values():
            if heads is not None and site.dim % heads:
                raise FieldError("options.heads", heads, f"what divides {site.dim} channels")
        on_grid = any(site.needs_grid for site in sites.values())
        chosen = [name for i, name in enumerate(sites) if on_grid or i in quarters(len(sites))]
        self.numbers = {name: i for i, name in enumerate(chosen)}
        self.selectors = nn.ModuleList(
            Selector(sites[name].dim, heads or _heads(sites[name].dim)) for name in self.numbers
        )
        self._ratios: dict[str, Tensor] = {}

    def forward(self, given: SiteInput) -> Merge:
        tokens, site, mass = given.tokens, given.site, given.mass
        if site.name not in self.numbers:
            problem = f"merges at {site.name}, where spvit has no selector"
            raise FieldError("plan", site.name, ", ".join(self.numbers), problem)
        selector = self.selectors[self.numbers[site.name]]
        with full_precision(tokens):
            first = mass is None
            ones = at_least_float32(tokens.new_ones(tokens.shape[:2]))
            mass = ones if mass is None else mass.to(ones.dtype)
            present = presence(mass)
            probabilities = selector(tokens, present)
            score = probabilities[..., 0] + _LEAST_SCORE
            if not isinstance(site.kept, int):
                return reduce_site(score[..., None], mass, site, drop_in_row)
            if not self.training:
                return package(score, site.slots, first)
            if first:
                self._ratios = {}
            keep = F.gumbel_softmax(probabilities.clamp_min(_LEAST_SCORE).log(), hard=True)[..., 0]
            merge = package_softly(score, keep, present, first)
            tokens_of_image = merge.mass[:, :-1]
            gap = tokens_of_image.mean() - (site.slots - 1) / tokens_of_image.shape[1]
            self._ratios[site.name] = gap.square()
            return merge

    def loss_terms(self) -> dict[str, Tensor]:
        ratios, self._ratios = list(self._ratios.values()), {}
        return {"keep_ratio": self.ratio_weight * torch.stack(ratios).sum()} if ratios else {}


def _heads(dim: int) -> int:
    return next(heads for heads in range(max(1, dim // 64), 0, -1) if dim % heads == 0)


def package(score: Tensor, slots: int, first: bool) -> Assigned:
    """Inference: the best slots - 1 tokens stay, all others are the last slot, the package.

    score: [B, N]. first: no token is a package yet; else the last one is.
    """
    own = score if first else score[:, :-1]
    best = own.argsort(-1, descending=True)[:, : slots - 1]
    kept = torch.zeros_like(score, dtype=torch.long).scatter(1, best, 1)
    slot = torch.where(kept > 0, kept.cumsum(1) - 1, slots - 1)
    weight = score if first else F.pad(own, (0, 1), value=1.0)
    return Assigned.normalised(slot, weight, slots)


def package_softly(score: Tensor, keep: Tensor, present: Tensor, first: bool) -> Soft:
    """Training: tokens that are dropped, keep = 0, lose their mass and go into the package.

    score, keep, present: [B, N]. The package is a new, last slot, or the last token.
    """
    tokens = score.shape[1]
    if first:
        score, keep, present = (F.pad(x, (0, 1)) for x in (score, keep, present))
    image = F.pad(torch.ones_like(score[:, :-1]), (0, 1))
    dropped = present * (1 - keep) * image
    # a package counts as one token as soon as anything is in it
    packed = (present[:, -1:] + dropped.sum(1, keepdim=True)).clamp_max(1)
    mass = torch.cat([(present * keep)[:, :-1], packed], 1)
    incoming = F.pad((dropped * score)[:, :tokens, None], (score.shape[1] - 1, 0))
    return Soft(image + (1 - image) * present, incoming, masses(mass, torch.ones_like(mass)))


def drop_in_row(metric: Tensor, mass: Tensor, slots: int) -> Assigned:  # noqa: ARG001
    """The best tokens of a row stay; each other joins the kept one before it, or the first.

    metric: the scores, [B, N, 1].
    """
    score = metric[..., 0]
    best = score.argsort(-1, descending=True)[:, :slots]
    kept = torch.zeros_like(score, dtype=torch.long).scatter(1, best, 1)
    return Assigned.normalised((kept.cumsum(1) - 1).clamp_min(0), score, slots)
