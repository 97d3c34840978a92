"""Multi-criteria Token Fusion, MCTF (Lee et al., arXiv 2403.10030).

Legend: B images, N tokens of the image, T all tokens, P slots, D channels, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from ltm.interfaces import Method
from ltm.merge import Assigned, Merge, WithAttention, at_least_float32
from ltm.methods._options import check_number
from ltm.methods._precision import full_precision
from ltm.methods._registry import register_method
from ltm.methods._sequence import cosines, sides

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from ltm.interfaces import Evidence, SiteInput, SiteKind, Spread


@register_method("mctf")
class MultiCriteriaFusion(Method):
    """MCTF (arXiv 2403.10030), on the input of blocks 1 to 11, counted from 0.

    The attention map of the block is computed first; a_i is the attention that token i receives,
    mean over heads and queries, s_i its size. All tokens, the class token with number 0, split in
    A, of even numbers, and B, of odd ones. An edge between them weighs

        (1 + cos(x_a, x_b)) / 2 x (i_a i_b)^(1 / tau_info) x (z_a z_b)^(1 / tau_size)

    with i = 1 / a and z = 1 / s, each divided by the largest of its image: like, unimportant and
    small tokens merge. To lose r, the r // 2 tokens of A with the best edges join their partners in
    B, then r - r // 2 of B, with what joined them, join their partners among the rest of A. A slot
    is the mean of its tokens weighted by a s, without a gradient in the weights. The map merges,
    too, and the block uses it in the place of a new one (one-step-ahead attention): keys add up,
    queries are the same mean. The order afterwards, which the next split goes by: what is left of
    A, then what is left of B by falling edge (the authors' code). The class token never merges, and
    at most half of the tokens do at once: a plan that removes more takes several rounds. Attention
    adds log sizes.

    Learned: nothing. Regimes: off-the-shelf, or fine-tuned; the paper fine-tunes for 30 epochs,
    with r = 16 and a consistency loss between two reductions of one image, which is the recipe's
    part. A grid is refused.

    tau_info: 20. tau_size: 40.
    """

    acts_on = "input"
    needs: frozenset[Evidence] = frozenset({"attention"})
    spread: Spread = "constant"
    skips = 1
    grids = "refused"
    why_no_grid = "it hands the block a merged map of attention, for tokens in an order of its own"

    def __init__(
        self,
        sites: Mapping[str, SiteKind],  # noqa: ARG002
        tau_info: float = 20.0,
        tau_size: float = 40.0,
    ) -> None:
        super().__init__()
        self.info = 1 / check_number("tau_info", tau_info, above=0)
        self.size = 1 / check_number("tau_size", tau_size, above=0)

    def forward(self, given: SiteInput) -> Merge:
        assert given.attention is not None
        with full_precision(given.tokens):
            x = at_least_float32(given.tokens.detach())
            mass = x.new_ones(x.shape[:2]) if given.mass is None else given.mass.to(x.dtype)
            now = _Tokens(x, mass, given.attention, given.prefix)
            merge = self._round(now, given.site.slots)
            now = now.merged(merge)
            while merge.slots > given.site.slots:
                again = self._round(now, given.site.slots)
                now, merge = now.merged(again), merge.then(again)
        return WithAttention(merge, now.attention)

    def _round(self, now: _Tokens, slots: int) -> Assigned:
        """To so many slots, or to half of the tokens if that is more."""
        N = now.x.shape[1]
        slots = max(slots, N - N // 2)
        slot = match_both_ways(self._edges(now), now.prefix, N - slots)
        return Assigned.normalised(slot, now.weight, slots)

    def _edges(self, now: _Tokens) -> Tensor:
        """[B, tokens of A, tokens of B], without the prefix."""
        a, b = sides(now.prefix)
        like = (1 + cosines(now.x, now.prefix)) / 2
        ones = F.pad(now.mass, (now.prefix, 0), value=1.0)
        for of_all, power in ((now.received, self.info), (ones, self.size)):
            inverse = 1 / of_all
            part = (inverse / inverse.amax(1, keepdim=True)) ** power
            part = part[:, now.prefix :]
            like = like * part[:, a, None] * part[:, None, b]
        return like


@dataclass(frozen=True)
class _Tokens:
    """x: [B, N, D], mass: [B, N], attention: [B, H, T, T], prefix: T - N."""

    x: Tensor
    mass: Tensor
    attention: Tensor
    prefix: int

    @property
    def received(self) -> Tensor:
        """[B, T]."""
        return at_least_float32(self.attention.detach()).mean((1, 2)).to(self.x.dtype)

    @property
    def weight(self) -> Tensor:
        """[B, N], of each token in its slot."""
        return self.received[:, self.prefix :] * self.mass

    def merged(self, merge: Assigned) -> _Tokens:
        B, H = self.attention.shape[:2]
        mean = merge.repeated(H)
        total = Assigned(mean.slot, torch.ones_like(mean.weight), merge.slots)
        by_key = total.after(self.prefix, self.attention.flatten(0, 1).transpose(1, 2))
        by_query = mean.after(self.prefix, by_key.transpose(1, 2))
        attention = by_query.unflatten(0, (B, H))
        return _Tokens(merge(self.x), merge.sizes(self.mass), attention, self.prefix)


def match_both_ways(edges: Tensor, prefix: int, leave: int) -> Tensor:
    """Slots [B, N]: leave // 2 of A join tokens of B, then the rest of B join tokens left in A.

    edges: [B, tokens of A, tokens of B], prefix: how many tokens stand before those of the image.
    """
    B, in_a, in_b = edges.shape
    from_a, from_b = leave // 2, leave - leave // 2
    left_a, left_b = in_a - from_a, in_b - from_b
    best, partner = edges.max(2)
    order = best.argsort(dim=1, descending=True)
    gone, stays = order[:, :from_a], order[:, from_a:].sort(1).values
    back = edges.gather(1, stays[..., None].expand(-1, -1, in_b))
    best, partner_of_b = back.max(1)
    order = best.argsort(dim=1, descending=True)
    # slots are numbered by `stays`, which is what partners of B count in
    rest = torch.arange(left_a, left_a + left_b, device=edges.device).expand(B, -1)
    slot_b = partner_of_b.scatter(1, order[:, from_b:], rest)
    own = torch.arange(left_a, device=edges.device).expand(B, -1)
    slot_a = torch.zeros_like(partner).scatter(1, stays, own)
    slot_a = slot_a.scatter(1, gone, slot_b.gather(1, partner.gather(1, gone)))
    slot = slot_a.new_zeros(B, in_a + in_b)
    a, b = sides(prefix)
    slot[:, a], slot[:, b] = slot_a, slot_b
    return slot
