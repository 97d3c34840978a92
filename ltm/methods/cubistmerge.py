"""CubistMerge (Gong and Lis, arXiv 2509.21764): neighbours merge, and a grid stays a grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional as F

from ltm.merge import MaxMagnitude
from ltm.methods._registry import register_method
from ltm.methods.matching import MatchingMethod, Step

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from ltm.interfaces import Site, SiteKind


def merge_neighbours(metric: Tensor, mass: Tensor, slots: int) -> MaxMagnitude:
    """The most similar neighbours in a row of tokens merge; slots keep the order of the row."""
    unit = F.normalize(metric, dim=-1)
    likeness = (unit[:, 1:] * unit[:, :-1]).sum(-1)
    gone = 1 + likeness.argsort(-1, descending=True)[:, : metric.shape[1] - slots]
    begins = gone.new_ones(mass.shape).scatter(1, gone, 0)
    return MaxMagnitude.normalised(begins.cumsum(1) - 1, mass, slots)


@register_method("cubistmerge")
class CubistMerge(MatchingMethod):
    """CubistMerge (arXiv 2509.21764): every row loses as many tokens, then every column.

    Only neighbours merge, the most similar first, so that tokens keep their places relative to
    each other; runs of neighbours become one. A merged token has in every channel the value
    farthest from 0 of those that merged: x_d = x_nd, n = argmax_n |x_nd|. Needs a grid on every
    backbone: a plan for a plain ViT says {"blocks.0": [13, 12]}.

    Ours, where the abstract, which was at hand, is silent: likeness is the cosine of keys; rows
    come before columns; sites lie between attention and MLP of every block of a ViT; attention
    adds log sizes, as in ToMe.

    Learned: nothing. Regimes: off-the-shelf, fine-tuned, from scratch.
    """

    keeps_grid = True

    def __init__(self, sites: Mapping[str, SiteKind]) -> None:  # noqa: ARG002
        super().__init__()

    def step(self, site: Site) -> Step:  # noqa: ARG002
        return merge_neighbours
