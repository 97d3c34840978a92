"""PiToMe (Tran et al., arXiv 2405.16148): tokens with few like them are protected from merging."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from ltm.merge import Assigned
from ltm.methods._options import check_number
from ltm.methods._registry import register_method
from ltm.methods.matching import MatchingMethod, Step, join

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from ltm.interfaces import Site, SiteKind


def energy(unit: Tensor, margin: float, alpha: float = 1.0) -> Tensor:
    """How many tokens are like each one: E_i = mean_j f(cos(i, j)), for unit vectors [B, N, d].

    f(x) = x from the margin on, alpha (exp(x - margin) - 1) below it: what is unlike counts
    against, but never by more than alpha. Returns [B, N].
    """
    cosine = unit @ unit.transpose(1, 2)
    below = alpha * ((cosine - margin).clamp_max(0).exp() - 1)
    return torch.where(cosine >= margin, cosine, below).mean(-1)


def merge_by_energy(
    metric: Tensor, mass: Tensor, slots: int, *, margin: float, alpha: float
) -> Assigned:
    """PiToMe's step: of the 2k tokens of highest energy, k join the most similar of the others."""
    N = metric.shape[1]
    leave = N - slots
    unit = F.normalize(metric, dim=-1)
    order = energy(unit, margin, alpha).argsort(-1, descending=True)[:, : 2 * leave]
    gone, stay = order[:, ::2], order[:, 1::2]

    def rows(index: Tensor) -> Tensor:
        return unit.gather(1, index[..., None].expand(-1, -1, unit.shape[-1]))

    if not leave:
        slot = torch.arange(N, device=metric.device).expand(metric.shape[0], -1)
    else:
        nearest = (rows(gone) @ rows(stay).transpose(1, 2)).argmax(-1)
        slot = join(gone, stay.gather(1, nearest), N)
    return Assigned.normalised(slot, mass, slots)


@register_method("pitome")
class ProtectInformativeTokens(MatchingMethod):
    """PiToMe (arXiv 2405.16148), between attention and MLP of every block.

    Tokens are sorted by `energy`, with margin m = 0.9 - 0.9 l / L in block l of L. To lose k, the
    2k of highest energy, those in large groups of their like, split alternately in A and B; every
    A token merges into its most similar B token, weighted by size. All others are protected.
    Attention adds log sizes, as in ToMe.

    Learned: nothing. Regimes: off-the-shelf, fine-tuned, from scratch.

    From memory, not checked against the text of the paper, of which the abstract was at hand: f
    below the margin, how the margin falls with depth, and both defaults.

    margin: 0.9, the m of the first block. alpha: 1, the most that an unlike token counts against.
    """

    def __init__(
        self, sites: Mapping[str, SiteKind], margin: float = 0.9, alpha: float = 1.0
    ) -> None:
        super().__init__()
        margin = check_number("margin", margin, 0)
        self.alpha = check_number("alpha", alpha, 0)
        self.margins = {name: margin * (1 - i / len(sites)) for i, name in enumerate(sites)}

    def step(self, site: Site) -> Step:
        return partial(merge_by_energy, margin=self.margins[site.name], alpha=self.alpha)
