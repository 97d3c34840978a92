"""What methods that match tokens have in common: bipartite matching, repetition, the grid rule.

The papers say nothing about grids; our rule, for all of them, is: match within rows, then within
columns, an equal number in each, so that the tokens that stay lie on a grid again.

Legend: B images, N tokens, P slots, k tokens that leave, d channels of the metric.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from ltm.interfaces import Method
from ltm.merge import Assigned, at_least_float32

if TYPE_CHECKING:
    from torch import Tensor

    from ltm.interfaces import Evidence, Grid, Site, SiteInput, Spread
    from ltm.merge import Merge

Step = Callable[["Tensor", "Tensor", int], Assigned]
"""One reduction of tokens: metric [B, N, d], mass [B, N], slots -> the slot of each token.

At most half of the tokens leave.
"""


def pairs(metric: Tensor) -> tuple[Tensor, Tensor]:
    """Each A token's most similar B token (ToMe, section 3, steps 1 and 2), for metric [B, N, d].

    A are the tokens with even numbers, B those with odd ones. Returns the cosine,
    [B, N - N // 2], and the number of the partner among all tokens, of the same shape.
    """
    unit = F.normalize(metric, dim=-1)
    cosine = unit[:, ::2] @ unit[:, 1::2].transpose(1, 2)
    likeness, partner = cosine.max(-1)
    return likeness, 2 * partner + 1


def join(gone: Tensor, partner: Tensor, tokens: int) -> Tensor:
    """Slots [B, N] when tokens `gone` [B, k] join tokens `partner` [B, k], which stay.

    Slots are the tokens that stay, in their order.
    """
    stays = torch.ones(gone.shape[0], tokens, dtype=torch.long, device=gone.device)
    slot = stays.scatter(1, gone, 0).cumsum(1) - 1
    return slot.scatter(1, gone, slot.gather(1, partner))


def match_bipartite(metric: Tensor, slots: int) -> Tensor:
    """Slots [B, N] by ToMe's matching (arXiv 2210.09461, section 3): the most similar pairs merge.

    Tokens split alternately in A and B; each A token has an edge to its most similar B token; the
    N - slots most similar edges merge. At most half of the tokens can merge at once.
    """
    N = metric.shape[1]
    leave = N - slots
    assert 0 <= leave <= N // 2, f"{leave} of {N} tokens cannot merge in one matching"
    likeness, partner = pairs(metric)
    gone = likeness.argsort(-1, descending=True)[:, :leave]
    return join(2 * gone, partner.gather(1, gone), N)


def merge_pairs(metric: Tensor, mass: Tensor, slots: int) -> Assigned:
    """ToMe's step: means weighted by size."""
    return Assigned.normalised(match_bipartite(metric, slots), mass, slots)


def reduce_site(metric: Tensor, mass: Tensor, site: Site, step: Step) -> Assigned:
    """Tokens of a site, with metric [B, N, d] and mass [B, N], to what its plan keeps."""
    if isinstance(site.kept, int):
        return reduce_tokens(metric, mass, site.kept, step)
    assert site.grid is not None
    return reduce_grid(metric, mass, site.grid, site.kept, step)


def reduce_tokens(metric: Tensor, mass: Tensor, slots: int, step: Step) -> Assigned:
    """To any number of slots, in as many steps as it takes."""
    N = metric.shape[1]
    half = max(slots, N - N // 2)
    merge = step(metric, mass, half)
    if half == slots:
        return merge
    return merge.then(reduce_tokens(merge(metric), merge.sizes(mass), slots, step))


def reduce_grid(metric: Tensor, mass: Tensor, grid: Grid, kept: Grid, step: Step) -> Assigned:
    """The grid rule: to `columns` in every row, then to `rows` in every column."""
    (h, w), (rows, columns) = grid, kept
    B, N, d = metric.shape
    within = reduce_tokens(metric.reshape(B * h, w, d), mass.reshape(B * h, w), columns, step)
    row = torch.arange(h, device=metric.device)[:, None]
    slot = (within.slot.view(B, h, w) + columns * row).view(B, N)
    by_rows = replace(within, slot=slot, weight=within.weight.view(B, N), slots=h * columns)

    def turned(x: Tensor) -> Tensor:
        """[B, h x columns, ...] -> [B x columns, h, ...]."""
        return x.unflatten(1, (h, columns)).transpose(1, 2).flatten(0, 1)

    masses = turned(by_rows.sizes(mass))
    within = reduce_tokens(turned(by_rows(metric)), masses, rows, step)
    column = torch.arange(columns, device=metric.device)
    slot, weight = (
        x.view(B, columns, h).transpose(1, 2) for x in (within.slot * columns, within.weight)
    )
    slot, weight = (slot + column).flatten(1), weight.flatten(1)
    return by_rows.then(replace(within, slot=slot, weight=weight, slots=rows * columns))


class MatchingMethod(Method):
    """A method without parameters that compares tokens by their keys.

    Where attention has no keys for tokens (linear attention, windows not yet attended), tokens
    themselves are compared.
    """

    wants: frozenset[Evidence] = frozenset({"keys"})
    spread: Spread = "constant"

    @abstractmethod
    def step(self, site: Site) -> Step:
        """How tokens of a site are reduced."""

    def forward(self, given: SiteInput) -> Merge:
        return self.reduced(given, self.step(given.site))

    def reduced(self, given: SiteInput, step: Step) -> Merge:
        """The tokens of a site, reduced by that step."""
        metric = given.tokens if given.keys is None else given.keys
        metric = at_least_float32(metric.detach())
        mass = given.mass
        mass = metric.new_ones(metric.shape[:2]) if mass is None else mass.to(metric.dtype)
        return reduce_site(metric, mass, given.site, step)
