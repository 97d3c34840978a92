"""Density peaks of k nearest neighbours, DPC-KNN, as TCFormer (arXiv 2204.08680) clusters tokens.

Legend: B images, N tokens, P slots, D channels.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ltm.interfaces import Method
from ltm.merge import Assigned, Merge, at_least_float32
from ltm.methods._options import check_whole
from ltm.methods._precision import full_precision
from ltm.methods._registry import register_method
from ltm.methods.clustering import distances, to_nearest
from ltm.methods.matching import reduce_grid

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ltm.interfaces import Site, SiteInput, SiteKind, Spread


def density_peaks(x: Tensor, slots: int, neighbours: int) -> Tensor:
    """The centres of tokens x [B, N, D]: [B, P], the largest density x distance to a denser token.

    In the order of the image. Of two tokens as dense as each other the first counts as denser.
    """
    distance = distances(x) / x.shape[-1] ** 0.5
    nearest = distance.topk(min(neighbours, x.shape[1]), dim=2, largest=False).values
    density = (-nearest.square().mean(2)).exp()
    number = torch.arange(x.shape[1], device=x.device)
    other, own = density[:, None], density[:, :, None]
    denser = (other > own) | ((other == own) & (number < number[:, None]))
    largest = distance.amax((1, 2), keepdim=True)
    apart = torch.where(denser, distance, largest).amin(2)
    return (apart * density).topk(slots, dim=1).indices.sort(1).values


def cluster(x: Tensor, weight: Tensor, slots: int, neighbours: int) -> Assigned:
    """Each token to its nearest centre; means of tokens weighted by `weight` [B, N]."""
    slot = to_nearest(distances(x), density_peaks(x, slots, neighbours))
    return Assigned.normalised(slot, weight, slots)


@register_method("dpcknn")
class DensityPeaks(Method):
    """DPC-KNN (TCFormer, arXiv 2204.08680; on a plain ViT: arXiv 2308.04657), on a block's input.

    With d_ij = ||x_i - x_j|| / sqrt(D), the density of a token is rho_i = exp(-mean of d^2 over
    its k nearest, itself one of them), and delta_i the distance to the nearest denser token, of
    the densest the largest distance of the image. Centres are the P tokens of the largest
    rho delta; each token belongs to its nearest centre, a centre to itself. A slot is the mean of
    its tokens weighted by exp(w x_i + b); attention heeds no sizes. A ratio r is spent as r, r^2
    and r^3 at the input of blocks 3, 6 and 9 of 12.

    Learned: w and b of every site, D + 1 numbers, together with all weights. Regimes: fine-tuned
    (30 epochs in arXiv 2308.04657), or from scratch.

    Ours: the authors add noise of 1e-6 to the densities so that no two are equal; here nothing is
    added, and of equals the first is the denser, so that an image is clustered alike in any batch.
    They divide by the sum of weights + 1e-6, here by the sum. Where a grid has to stay, tokens
    cluster within rows, then within columns, by the same rule.

    neighbours: 5, the k.
    """

    acts_on = "input"
    spread: Spread = "powers"
    proportional = False

    def __init__(self, sites: Mapping[str, SiteKind], neighbours: int = 5) -> None:
        super().__init__()
        self.step = partial(cluster, neighbours=check_whole("neighbours", neighbours))
        self.numbers = {name: str(i) for i, name in enumerate(sites)}
        self.importance = nn.ModuleDict()

    def prepare(self, sites: Mapping[str, Site], like: Tensor) -> None:
        """Makes the scores of sites that are new; those of others stay, for they have learned."""
        for name, site in sites.items():
            if self.numbers[name] not in self.importance:
                score = nn.Linear(site.dim, 1)
                nn.init.trunc_normal_(score.weight, std=0.02)
                nn.init.zeros_(score.bias)
                self.importance[self.numbers[name]] = score.to(like)

    def forward(self, given: SiteInput) -> Merge:
        tokens, site = given.tokens, given.site
        score: Any = self.importance[self.numbers[site.name]]
        with full_precision(tokens):
            weight = at_least_float32(score(tokens.to(score.weight.dtype))).exp().squeeze(-1)
            x = at_least_float32(tokens.detach())
            if isinstance(site.kept, int):
                return self.step(x, weight, site.kept)
            assert site.grid is not None
            return reduce_grid(x, weight, site.grid, site.kept, self.step)
