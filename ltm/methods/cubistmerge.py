"""CubistMerge (Gong and Lis, arXiv 2509.21764): neighbours merge, and a grid stays a grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from ltm.interfaces import NOTHING
from ltm.merge import MaxMagnitude
from ltm.methods._registry import register_method
from ltm.methods.matching import MatchingMethod, Step, join

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from ltm.interfaces import ActsOn, Evidence, Site, SiteKind, Spread

_NEVER = -2.0  # below every cosine


def merge_neighbours(metric: Tensor, mass: Tensor, slots: int) -> MaxMagnitude:
    """Tokens with odd numbers join the more similar of their two neighbours in a line.

    The most similar first, as many as have to leave. Slots keep the order of the line.
    """
    N = metric.shape[1]
    unit = F.normalize(metric, dim=-1)
    likeness = (unit[:, 1:] * unit[:, :-1]).sum(-1)
    before, after = likeness[:, ::2], likeness[:, 1::2]
    # the last token of an even number has no neighbour after it
    after = F.pad(after, (0, before.shape[1] - after.shape[1]), value=_NEVER)
    best = torch.maximum(before, after).argsort(-1, descending=True)[:, : N - slots]
    gone = 2 * best + 1
    partner = torch.where(after > before, 2, 0).gather(1, best) + 2 * best
    return MaxMagnitude.normalised(join(gone, partner, N), mass, slots)


@register_method("cubistmerge")
class CubistMerge(MatchingMethod):
    """CubistMerge (arXiv 2509.21764), at the input of one block: rows lose tokens, then columns.

    Every row loses as many, then every column of what is left. In a line, token 2j + 1 takes the
    better of its neighbours 2j and 2j + 2, by the cosine of tokens, and the r best of these edges
    merge, at most three tokens in one, so that all keep their places relative to each other. A
    merged token has in every channel the value farthest from 0 of those that merged: x_d = x_nd,
    n = argmax_n |x_nd|. Sizes play no part, in attention neither. Needs a grid on every backbone:
    a plan for a plain ViT says {"blocks.1": [13, 12]}. The second block is where it acts by
    default, as in the authors' code for DeiT.

    Of three tokens in one the authors' code compares two, since one of its writes hides the other;
    here all three are compared, as in the paper.

    Ours: a line that loses more than a half takes several steps, each after the merge of the one
    before; on networks of windows or convolutions, the site, and on windows that each merges on its
    own.

    Learned: nothing. Regimes: off-the-shelf, fine-tuned, from scratch.
    """

    acts_on: ActsOn = "input"
    wants: frozenset[Evidence] = NOTHING
    keeps_grid = True
    proportional = False
    spread: Spread = "once"
    skips = 1

    def __init__(self, sites: Mapping[str, SiteKind]) -> None:  # noqa: ARG002
        super().__init__()

    def step(self, site: Site) -> Step:  # noqa: ARG002
        return merge_neighbours
