"""The control of uniform merging: neighbours on the grid are averaged, wherever they lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ltm.methods._registry import register_method
from ltm.methods.fixed import FixedMethod

if TYPE_CHECKING:
    from collections.abc import Sequence


@register_method("uniform")
class UniformMerging(FixedMethod):
    """A control, of no paper: average pooling of neighbours, between attention and MLP of a block.

    An h x w grid of tokens becomes h' x w', evenly: the token in row i goes to slot row
    floor((i + 1/2) h' / h), and columns alike; a slot is the mean of its tokens, by size. The same
    places merge in every image. 14 x 14 at half the height and width is 2 x 2 average pooling;
    at 13 x 13 the two rows and the two columns in the middle merge. Attention adds log sizes, as
    in ToMe. Needs a grid on every backbone: a plan for a plain ViT says {"blocks.0": [13, 12]}.

    Learned: nothing. Regimes: off-the-shelf, fine-tuned, from scratch.
    """

    keeps_grid = True

    def slots_of(self, tokens: int, slots: int, site: str) -> Sequence[int]:  # noqa: ARG002
        return [(2 * i + 1) * slots // (2 * tokens) for i in range(tokens)]
