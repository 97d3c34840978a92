"""Central: keep the tokens nearest to the centre of the image, whatever is in it. A control."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ltm.errors import FieldError
from ltm.interfaces import Method
from ltm.merge import Merge, Selected, at_least_float32
from ltm.methods._registry import register_method

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from ltm.interfaces import Grid, Kept, SiteInput, SiteKind, Spread

DISTANCES = ("l1", "l2", "linf")


@register_method("central")
class Central(Method):
    """A control, after that of "Which Tokens to Use?" (arXiv 2308.04657): no image is looked at.

    The K tokens nearest to the centre of the image stay, of equal distances those that come first
    in the image; all others are dropped, between attention and MLP. Attention knows no sizes. A
    compression ratio r keeps r, r^2 and r^3 of the image's tokens after blocks 3, 6 and 9 of 12,
    counted from 0.

    Learned: nothing. Regimes: off-the-shelf, fine-tuned, from scratch.

    Ours: K is what the plan says; the paper's code takes the radius whose number of tokens is
    nearest to K. Where a grid has to stay, its central rows and columns do: a crop of the image,
    or of each window.

    distance: "l2", or "l1" or "linf".
    """

    proportional = False
    spread: Spread = "powers"

    def __init__(self, sites: Mapping[str, SiteKind], distance: str = "l2") -> None:  # noqa: ARG002
        super().__init__()
        if distance not in DISTANCES:
            raise FieldError("options.distance", distance, choices=DISTANCES)
        self.distance = distance

    def forward(self, given: SiteInput) -> Merge:
        tokens, site = given.tokens, given.site
        B, N, _ = tokens.shape
        if site.grid is None:
            # the tokens left by an earlier site lie in the order of their distance
            index = torch.arange(site.slots, device=tokens.device)
        else:
            index = nearest(site.grid, site.kept, self.distance, tokens)
        dtype = at_least_float32(tokens.new_empty(0)).dtype
        return Selected(index.expand(B, -1), N, dtype=dtype)


def nearest(grid: Grid, kept: Kept, distance: str, like: Tensor) -> Tensor:
    """Numbers of the tokens nearest to the centre of a grid.

    kept: how many, from near to far, or a grid of them, in its order.
    like: says the device.
    """
    (rows, columns), device = grid, like.device
    # twice the offset from the centre: whole numbers, so that equal distances are equal
    down = (2 * torch.arange(rows, device=device) - (rows - 1)).abs()
    across = (2 * torch.arange(columns, device=device) - (columns - 1)).abs()
    if not isinstance(kept, int):
        row = _least(down, kept[0]).sort().values
        column = _least(across, kept[1]).sort().values
        return (columns * row[:, None] + column).flatten()
    far = torch.meshgrid(down, across, indexing="ij")
    if distance == "linf":
        both = torch.maximum(*far)
    else:
        both = far[0] + far[1] if distance == "l1" else far[0] ** 2 + far[1] ** 2
    return _least(both.flatten(), kept)


def _least(values: Tensor, count: int) -> Tensor:
    """Numbers of the least whole numbers [N], of equal ones the first: [count]."""
    N = len(values)
    return (N * values + torch.arange(N, device=values.device)).argsort()[:count]
