"""Sinkhorn clustering (Haurum et al., MSHViT): tokens are shared out among equal slots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltm.merge import Merge, Transformed, Weighted, at_least_float32
from ltm.methods._options import check_number, check_whole
from ltm.methods._precision import full_precision
from ltm.methods._registry import register_method
from ltm.methods.slots import SlotMethod, Slots

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ltm.interfaces import SiteKind

_MOST_ROUNDS = 1000


def transport(scores: Tensor, rounds: int) -> Tensor:
    """Sinkhorn's algorithm in log space, from scores [B, N, P] to shares [B, N, P].

    Every round scales slots to one mass, then tokens to 1, which they have in the end.
    """
    log = scores
    for _ in range(rounds):
        log = log.log_softmax(1).log_softmax(2)
    return log.exp()


def unit(x: Tensor) -> Tensor:
    """Vectors [..., D] of length 1, in float32 at least."""
    return F.normalize(at_least_float32(x), dim=-1)


class Centres(Slots):
    """Shares of unit tokens x / |x| in learned unit centres, by `transport` of their cosines."""

    per_slot = "centres"

    def __init__(self, dim: int, slots: int, eps: float, rounds: int) -> None:
        super().__init__(dim, slots)
        self.eps, self.rounds = eps, rounds
        self.centres = nn.Parameter(F.normalize(torch.randn(slots, dim), dim=-1))

    def forward(self, tokens: Tensor) -> Tensor:
        with full_precision(tokens):
            x = unit(tokens)
            cosine = x @ unit(self.centres).to(x.dtype).T
            return transport(cosine / self.eps, self.rounds)

    def merge(self, tokens: Tensor) -> Merge:
        return Transformed(Weighted(self(tokens), keeps_mass=True), unit)


@register_method("sinkhorn")
class Sinkhorn(SlotMethod):
    """Sinkhorn clustering as in MSHViT, on the input of blocks 3, 6 and 9 of 12.

    Tokens and P learned centres are unit vectors. With K = exp(cosine / eps), a few rounds of
    Sinkhorn's algorithm scale K so that all slots, then all tokens, have the same mass: a token's
    weights sum to 1, those of a slot to about N / P. Slots are G^T x / |x|, sums rather than
    means. The class token passes by. Sites and schedule are those of arXiv 2308.04657.

    Learned: the centres, together with all weights. Regimes: fine-tuned, from scratch.

    Ours: centres are normalised within the forward pass, through which gradients go, where the
    public code writes them back into the weights at every forward.

    A grid is refused, and, once weights were used, every other number of slots (`SlotMethod`).

    eps: 1, the temperature. rounds: 3, of Sinkhorn's algorithm.
    """

    def __init__(self, sites: Mapping[str, SiteKind], eps: float = 1.0, rounds: int = 3) -> None:
        super().__init__(sites)
        self.eps = check_number("eps", eps, above=0)
        self.rounds = check_whole("rounds", rounds, _MOST_ROUNDS)

    def make(self, dim: int, slots: int) -> Slots:
        return Centres(dim, slots, self.eps, self.rounds)
