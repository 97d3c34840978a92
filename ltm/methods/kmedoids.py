"""K-Medoids, as Token Pooling (Marin et al., arXiv 2110.03860) clusters tokens.

Legend: B images, N tokens, P slots, D channels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from ltm.interfaces import Method
from ltm.merge import Assigned, Merge, at_least_float32
from ltm.methods._options import check_whole
from ltm.methods._precision import full_precision
from ltm.methods._registry import register_method
from ltm.methods.clustering import distances

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ltm.interfaces import Evidence, SiteInput, SiteKind, Spread


@dataclass(frozen=True)
class Medoids(Assigned):
    """A slot is one token as it is, and stands for all that belong to it.

    centre: [B, P], that token. Of two slots with the same one, the second stands for none.
    """

    centre: Tensor

    after = Merge.after

    def __call__(self, x: Tensor) -> Tensor:
        return x.gather(1, self.centre[..., None].expand(-1, -1, x.shape[-1]))

    def repeated(self, times: int) -> Medoids:
        centre = self.centre.repeat_interleave(times, 0)
        return replace(super().repeated(times), centre=centre)

    def weights(self) -> Tensor:
        chosen = F.one_hot(self.centre, self.slot.shape[1])
        return chosen.transpose(1, 2).to(self.weight.dtype)


def k_medoids(distance: Tensor, received: Tensor, slots: int, rounds: int) -> Medoids:
    """Clusters by distance [B, N, N] of tokens that received attention [B, N]."""
    B, N, _ = distance.shape
    cost = (received * distance.sum(2))[..., None]
    number = torch.arange(slots, device=distance.device)

    def nearest(centre: Tensor) -> Tensor:
        return distance.gather(2, centre[:, None].expand(B, N, slots)).argmin(2)

    centre = received.topk(slots, dim=1).indices
    for _ in range(rounds):
        member = nearest(centre)[..., None] == number
        # the argmin of nothing but infinities is token 0
        centre = torch.where(member, cost, torch.inf).argmin(1)
    slot = nearest(centre)
    own = torch.zeros_like(cost[..., 0]).scatter(1, centre, 1.0)
    return Medoids(slot, own, slots, centre)


@register_method("kmedoids")
class KMedoids(Method):
    """Weighted K-Medoids (Token Pooling, arXiv 2110.03860; on a plain ViT: arXiv 2308.04657).

    On a block's input. a_i is the attention that token i received in the block before, over all
    heads and queries, the class token's too. The centres are the P tokens of the largest a at
    first. Three times, each token belongs to its nearest centre by ||x_i - x_j||, and the new
    centre of a cluster is its member of the least a_i sum_j ||x_i - x_j||, j over all tokens of
    the image (token 0 where a cluster has none). The centres go on as they are, in the order of
    the first ones; attention heeds no sizes. A ratio r is spent as r, r^2 and r^3 at the input of
    blocks 3, 6 and 9 of 12; the first block has none before it.

    Learned: nothing. Regimes: off-the-shelf, fine-tuned (30 epochs in arXiv 2308.04657), from
    scratch. A grid is refused.

    rounds: 3.
    """

    acts_on = "input"
    needs: frozenset[Evidence] = frozenset({"received_before"})
    spread: Spread = "powers"
    proportional = False
    grids = "refused"
    why_no_grid = "it keeps the tokens in the middle of clusters, wherever in the image they are"

    def __init__(self, sites: Mapping[str, SiteKind], rounds: int = 3) -> None:  # noqa: ARG002
        super().__init__()
        self.rounds = check_whole("rounds", rounds, 100)

    def forward(self, given: SiteInput) -> Merge:
        assert given.received_before is not None
        with full_precision(given.tokens):
            distance = distances(at_least_float32(given.tokens.detach()))
            received = given.received_before.detach().to(distance.dtype)
            return k_medoids(distance, received, given.site.slots, self.rounds)
