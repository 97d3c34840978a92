"""Token Merging, ToMe (Bolya et al., arXiv 2210.09461): merge the most similar tokens.

Implemented from the paper's section 3. No parameters, no training needed; sizes weigh the means.
On a grid, where the paper is silent, our rule is: match within rows, then within columns, an equal
number in each, so that the tokens that stay lie on a grid again.

Legend: B images, N tokens, P slots, d channels of the metric.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from ltm.merge import Assigned, Merge
from ltm.methods._base import Method, register_method

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from ltm.plan import Grid, Place, Site


def match_bipartite(metric: Tensor, slots: int) -> Tensor:
    """Which slot each token goes to: [B, N], for unit vectors [B, N, d] (section 3, steps 1 to 4).

    Tokens split alternately in A and B; each A token has an edge to its most similar B token; the
    N - slots most similar edges merge. Slots are the tokens that stay, in their order. At most half
    of the tokens can merge at once.
    """
    B, N, _ = metric.shape
    merged = N - slots
    assert 0 <= merged <= N // 2, f"{merged} of {N} tokens cannot merge in one matching"
    device = metric.device
    a, b = metric[:, ::2], metric[:, 1::2]
    likeness, partner = (a @ b.transpose(1, 2)).max(-1)
    gone = likeness.argsort(-1, descending=True)[:, :merged]
    stays = torch.ones(B, N, dtype=torch.long, device=device).scatter(1, 2 * gone, 0)
    slot = stays.cumsum(1) - 1
    partner_slot = slot.gather(1, 2 * partner.gather(1, gone) + 1)
    return slot.scatter(1, 2 * gone, partner_slot)


def match(metric: Tensor, mass: Tensor, slots: int) -> Tensor:
    """Slots [B, N] for metric [B, N, d] and mass [B, N], in as many matchings as it takes."""
    N = metric.shape[1]
    half = max(slots, N - N // 2)
    slot = match_bipartite(F.normalize(metric, dim=-1), half)
    if half == slots:
        return slot
    merge = Assigned.normalised(slot, mass, half)
    return match(merge(metric), merge.sizes(mass), slots).gather(1, slot)


def match_on_grid(metric: Tensor, mass: Tensor, grid: Grid, kept: Grid) -> Tensor:
    """Ours: the same number of merges in every row, then in every column. Slots [B, N]."""
    (h, w), (rows, columns) = grid, kept
    B, N, d = metric.shape
    row = torch.arange(h, device=metric.device)[:, None]
    in_rows = match(metric.reshape(B * h, w, d), mass.reshape(B * h, w), columns)
    slot = (in_rows.view(B, h, w) + columns * row).view(B, N)

    merge = Assigned.normalised(slot, mass, h * columns)
    turned = merge(metric).view(B, h, columns, d).transpose(1, 2).reshape(B * columns, h, d)
    masses = merge.sizes(mass).view(B, h, columns).transpose(1, 2).reshape(B * columns, h)
    in_columns = match(turned, masses, rows).view(B, columns, h).transpose(1, 2)
    column = torch.arange(columns, device=metric.device)
    return (in_columns * columns + column).reshape(B, h * columns).gather(1, slot)


@register_method("tome")
class TokenMerging(Method):
    """ToMe (arXiv 2210.09461).

    A compression ratio is the mean kept fraction over the blocks of a ViT: the same number of
    tokens merges in every block (the paper's constant schedule). Where attention has no keys for
    tokens (linear attention, windows not yet attended), tokens themselves are compared.
    """

    needs_keys = True
    spread = "even"

    def __init__(self, places: Mapping[str, Place]) -> None:  # noqa: ARG002
        super().__init__()

    def forward(
        self, tokens: Tensor, site: Site, mass: Tensor | None = None, keys: Tensor | None = None
    ) -> Merge:
        metric = (tokens if keys is None else keys).detach().float()
        mass = metric.new_ones(metric.shape[:2]) if mass is None else mass
        if isinstance(site.kept, int):
            slot = match(metric, mass, site.slots)
        else:
            assert site.grid is not None
            slot = match_on_grid(metric, mass, site.grid, site.kept)
        return Assigned.normalised(slot, mass, site.slots)
