"""Token Merging, ToMe (Bolya et al., arXiv 2210.09461): merge the most similar tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ltm.methods._registry import register_method
from ltm.methods.matching import MatchingMethod, Step, merge_pairs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ltm.interfaces import Site, SiteKind


@register_method("tome")
class TokenMerging(MatchingMethod):
    """ToMe (arXiv 2210.09461), between attention and MLP of every block.

    Tokens split alternately in A and B. Each A token has an edge to the B token whose key, mean
    over heads, has the largest cosine with its own; the r most similar edges merge:
    x_b <- (s_b x_b + sum_a s_a x_a) / (s_b + sum_a s_a), with s the sizes; attention adds log s.
    The class token never merges, and at most half of the tokens do at once: a plan that removes
    more takes several matchings.

    Learned: nothing. Regimes: off-the-shelf, fine-tuned, from scratch.
    """

    def __init__(self, sites: Mapping[str, SiteKind]) -> None:  # noqa: ARG002
        super().__init__()

    def step(self, site: Site) -> Step:  # noqa: ARG002
        return merge_pairs
