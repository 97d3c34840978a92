"""PiToMe (Tran et al., arXiv 2405.16148): tokens with few like them are protected from merging."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from ltm.errors import FieldError
from ltm.merge import Assigned
from ltm.methods._options import check_number
from ltm.methods._registry import register_method
from ltm.methods.matching import MatchingMethod, Step, join

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from ltm.interfaces import Site, SiteKind, Spread

HALVES = ("first", "second", "none")


def energy(unit: Tensor, margin: float, alpha: float = 1.0) -> Tensor:
    """How many tokens are like each one: E_i = mean_j f(cos(i, j) - margin), for unit vectors.

    f(x) = x above 0, alpha (exp(x) - 1) below it: what is unlike counts against, but never by more
    than alpha. A token itself is among the j, which changes no order. unit: [B, N, d]. Returns
    [B, N].
    """
    return F.elu(unit @ unit.transpose(1, 2) - margin, alpha).mean(-1)


def merge_by_energy(
    metric: Tensor, mass: Tensor, slots: int, *, margin: float, alpha: float, protects: bool
) -> Assigned:
    """PiToMe's step: k tokens join the most similar of others, with the highest energy first.

    protects: k of the 2k tokens of highest energy join the other k. Else the k best edges of those
    that lead from one half of all tokens to the other.
    """
    N = metric.shape[1]
    leave = N - slots
    if not leave:
        slot = torch.arange(N, device=metric.device).expand(metric.shape[0], -1)
        return Assigned.normalised(slot, mass, slots)
    unit = F.normalize(metric, dim=-1)
    order = energy(unit, margin, alpha).argsort(-1, descending=True)
    order = order[:, : 2 * leave] if protects else order
    gone, stay = order[:, ::2], order[:, 1::2]

    def rows(index: Tensor) -> Tensor:
        return unit.gather(1, index[..., None].expand(-1, -1, unit.shape[-1]))

    likeness, nearest = (rows(gone) @ rows(stay).transpose(1, 2)).max(-1)
    partner = stay.gather(1, nearest)
    if not protects:
        best = likeness.argsort(-1, descending=True)[:, :leave]
        gone, partner = gone.gather(1, best), partner.gather(1, best)
    return Assigned.normalised(join(gone, partner, N), mass, slots)


@register_method("pitome")
class ProtectInformativeTokens(MatchingMethod):
    """PiToMe (arXiv 2405.16148), between attention and MLP of every block.

    The energy of a token says how many are like it: E_i = mean_j ELU(cos(k_i, k_j) - m), with keys
    as means over heads and a margin m_l = margin (1 - l / L) in block l of L. To lose k, the 2k of
    highest energy split alternately by rank in A and B; every A token merges into its most similar
    B token, weighted by size; all others are protected. In half of the blocks, as in the authors'
    code for images, nothing is protected: all tokens split alternately by rank, and the k most
    similar edges from A to B merge, as in ToMe. Attention does not know sizes.

    Every block keeps the same part of its tokens, rounded up: `r` below 1 is the part that leaves,
    0.075 for the authors' ratio of 0.925.

    Learned: nothing. Regimes: off-the-shelf, fine-tuned, from scratch.

    Ours: a block that loses more than a half takes several steps.

    margin: 0.75, that of the first block, of the authors' code; 0.9 for MAE. alpha: 1, the most
        that an unlike token counts against.
    unprotected: the half of the blocks that protects nothing: "first", as on DeiT, or "second", as
        on MAE; "none" protects everywhere.
    """

    spread: Spread = "geometric"
    proportional = False

    def __init__(
        self,
        sites: Mapping[str, SiteKind],
        margin: float = 0.75,
        alpha: float = 1.0,
        unprotected: str = "first",
    ) -> None:
        super().__init__()
        margin = check_number("margin", margin, 0)
        self.alpha = check_number("alpha", alpha, 0)
        if unprotected not in HALVES:
            raise FieldError("options.unprotected", unprotected, choices=list(HALVES))
        half = math.ceil(len(sites) / 2)
        protecting = {
            "first": range(half, len(sites)),
            "second": range(half),
            "none": range(len(sites)),
        }[unprotected]
        self._steps = {
            name: partial(
                merge_by_energy,
                margin=margin * (1 - i / len(sites)),
                alpha=self.alpha,
                protects=i in protecting,
            )
            for i, name in enumerate(sites)
        }

    def step(self, site: Site) -> Step:
        return self._steps[site.name]
