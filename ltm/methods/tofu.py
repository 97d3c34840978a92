"""Token Fusion, ToFu (Kim et al., arXiv 2312.01026): prune in early layers, merge in later ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ltm.errors import FieldError
from ltm.merge import Assigned, Merge, NormKept
from ltm.methods._registry import register_method
from ltm.methods.matching import MatchingMethod, Step, match_bipartite, merge_pairs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from ltm.interfaces import Site, SiteInput, SiteKind


def prune_pairs(metric: Tensor, mass: Tensor, slots: int) -> Assigned:
    """ToMe's pairs, of which the destination stays as it is.

    Its size still grows: it stands for both in proportional attention.
    """
    slot = match_bipartite(metric, slots)
    # the destination of a slot is its B token, an odd one; a lone token is its own
    alone = mass.new_zeros(mass.shape[0], slots).scatter_add(1, slot, mass.new_ones(mass.shape))
    weight = (alone.gather(1, slot) == 1).to(mass.dtype)
    weight[:, 1::2] = 1
    return Assigned(slot, weight, slots)


@register_method("tofu")
class TokenFusion(MatchingMethod):
    """ToFu (arXiv 2312.01026): ToMe's matching in every block.

    In early blocks, which respond to a mean of inputs unlike to the inputs, the source of a pair
    is pruned. In later ones it merges by MLERP: with m the mean weighted by size,
    x = m / ||m|| x max ||x_i||.

    Learned: nothing. Regimes: off-the-shelf, fine-tuned, from scratch.

    Ours, for no code of the authors is public: how many blocks prune by default; tokens lie in the
    order of the image; a pruned token still counts in the size of its destination, for the means
    and for proportional attention.

    prune_blocks: how many of the first blocks prune; half of them when omitted.
    """

    def __init__(self, sites: Mapping[str, SiteKind], prune_blocks: int | None = None) -> None:
        super().__init__()
        if prune_blocks is None:
            prune_blocks = len(sites) // 2
        if type(prune_blocks) is not int or not 0 <= prune_blocks <= len(sites):
            allowed = f"a whole number from 0 to {len(sites)}"
            raise FieldError("options.prune_blocks", prune_blocks, allowed)
        self._pruning = set(list(sites)[:prune_blocks])

    def step(self, site: Site) -> Step:
        return prune_pairs if site.name in self._pruning else merge_pairs

    def forward(self, given: SiteInput) -> Merge:
        merge = super().forward(given)
        assert isinstance(merge, Assigned)
        if given.site.name in self._pruning:
            return merge
        return NormKept(merge.slot, merge.weight, merge.slots)
