"""Token Merging, ToMe (Bolya et al., arXiv 2210.09461): merge the most similar tokens."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ltm.errors import FieldError
from ltm.methods._registry import register_method
from ltm.methods._sequence import merge_in_sequence
from ltm.methods.matching import MatchingMethod, Step, merge_pairs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from ltm.interfaces import Site, SiteInput, SiteKind
    from ltm.merge import Merge

ORDERS = ("image", "authors")


@register_method("tome")
class TokenMerging(MatchingMethod):
    """ToMe (arXiv 2210.09461), between attention and MLP of every block.

    Tokens split alternately in A and B. Each A token has an edge to the B token whose key, mean
    over heads, has the largest cosine with its own; the r most similar edges merge:
    x_b <- (s_b x_b + sum_a s_a x_a) / (s_b + sum_a s_a), with s the sizes; attention adds log s.
    The class token never merges, and at most half of the tokens do at once: a plan that removes
    more takes several matchings.

    Learned: nothing. Regimes: off-the-shelf, fine-tuned, from scratch.

    order: what "alternately" goes by, which the paper does not say. "image": the image's tokens
        alone, which keep their order in it. "authors": as in the authors' code, which counts the
        class token, and after a merge has what stays of A before all of B; it reproduces published
        figures, where no grid has to stay.
    """

    def __init__(self, sites: Mapping[str, SiteKind], order: str = "image") -> None:
        super().__init__()
        if order not in ORDERS:
            raise FieldError("options.order", order, choices=list(ORDERS))
        if order == "authors" and any(kind.needs_grid for kind in sites.values()):
            self._refuse_grid()
        self.order = order

    def prepare(self, sites: Mapping[str, Site], like: Tensor) -> None:  # noqa: ARG002
        if self.order == "authors" and any(not isinstance(s.kept, int) for s in sites.values()):
            self._refuse_grid()

    def step(self, site: Site) -> Step:  # noqa: ARG002
        return merge_pairs

    def forward(self, given: SiteInput) -> Merge:
        if self.order == "image":
            return super().forward(given)
        # without a prefix the authors leave A in the order of the similarities
        step = partial(merge_in_sequence, prefix=given.prefix, by_likeness=not given.prefix)
        return self.reduced(given, step)

    def _refuse_grid(self) -> None:
        problem = "is 'authors', in which no grid stays"
        raise FieldError("options.order", "authors", "'image' where a grid stays", problem)
