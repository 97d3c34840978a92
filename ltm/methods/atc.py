"""Agglomerative Token Clustering, ATC (Haurum et al., arXiv 2409.11923).

Legend: B images, N tokens, P slots, d channels of the metric.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from ltm.errors import FieldError
from ltm.merge import Assigned, Merge, at_least_float32
from ltm.methods._registry import register_method
from ltm.methods.matching import MatchingMethod, Step, reduce_grid

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from ltm.interfaces import Site, SiteInput, SiteKind, Spread

LINKAGES = ("single", "average", "complete")


def agglomerate(distance: Tensor, clusters: int, linkage: str) -> Tensor:
    """The cluster of every token: distance [B, N, N] -> [B, N] in [0, P).

    Clusters are numbered in the order of their first tokens.
    """
    B, N, _ = distance.shape
    itself = torch.eye(N, dtype=torch.bool, device=distance.device)
    apart = distance.masked_fill(itself, torch.inf)
    number = torch.arange(N, device=distance.device).expand(B, N)
    owner, size = number, torch.ones_like(distance[:, 0])
    gone = apart.new_full((B, 1, N), torch.inf)
    for _ in range(N - clusters):
        closest = apart.flatten(1).argmin(1, keepdim=True)
        a, b = closest // N, closest % N
        low, high = torch.minimum(a, b), torch.maximum(a, b)
        pair = torch.cat([low, high], 1)
        rows = pair[..., None].expand(B, 2, N)
        both, sizes = apart.gather(1, rows), size.gather(1, pair)
        total = sizes.sum(1, keepdim=True)
        if linkage == "single":
            joint = both.amin(1)
        elif linkage == "complete":
            joint = both.amax(1)
        else:
            joint = (both * (sizes / total)[..., None]).sum(1)
        # the second of a pair is gone, and the first is no neighbour of its own
        joint = joint.scatter(1, pair, torch.inf)
        both = torch.cat([joint[:, None], gone], 1)
        apart.scatter_(1, rows, both)
        apart.scatter_(2, rows.transpose(1, 2), both.transpose(1, 2))
        size = size.scatter(1, low, total)
        owner = torch.where(owner == high, low, owner)
    first = (owner == number).long().cumsum(1) - 1
    return first.gather(1, owner)


def cluster(metric: Tensor, mass: Tensor, slots: int, linkage: str) -> Assigned:
    """Means weighted by size, of clusters by the cosine of the metric [B, N, d]."""
    unit = F.normalize(metric, dim=-1)
    slot = agglomerate(1 - unit @ unit.transpose(1, 2), slots, linkage)
    return Assigned.normalised(slot, mass, slots)


@register_method("atc")
class AgglomerativeClustering(MatchingMethod):
    """ATC (arXiv 2409.11923), between attention and MLP of a block.

    Each token begins as a cluster of its own; the two clusters nearest to each other merge until P
    are left. The distance of tokens is 1 - cosine of their keys, mean over heads, as in ToMe; that
    of clusters is the least, the mean or the largest between their tokens (single, average or
    complete linkage). A slot is the mean of its tokens weighted by size; attention adds log sizes.
    The class token never merges. A ratio r is spent as r, r^2 and r^3 in blocks 3, 6 and 9 of 12.

    Learned: nothing. Regimes: off-the-shelf, fine-tuned (30 epochs in the paper), from scratch.

    Ours: all images of a batch merge at once, N - P times, where the authors run scikit-learn on
    each; the clusters are the same. An exported or compiled network has each merge as some 35
    nodes of its graph, fewer than 200 merges at 196 tokens. Where a grid has to stay, tokens
    cluster within rows, then within columns.

    linkage: "average" (the authors' default), "single" or "complete".
    """

    spread: Spread = "powers"

    def __init__(
        self,
        sites: Mapping[str, SiteKind],  # noqa: ARG002
        linkage: str = "average",
    ) -> None:
        super().__init__()
        if linkage not in LINKAGES:
            raise FieldError("options.linkage", linkage, choices=[*LINKAGES])
        self.linkage = linkage

    def step(self, site: Site) -> Step:  # noqa: ARG002
        return partial(cluster, linkage=self.linkage)

    def forward(self, given: SiteInput) -> Merge:
        metric = at_least_float32((given.tokens if given.keys is None else given.keys).detach())
        mass = given.mass
        mass = metric.new_ones(metric.shape[:2]) if mass is None else mass.to(metric.dtype)
        site, step = given.site, self.step(given.site)
        if isinstance(site.kept, int):
            return step(metric, mass, site.kept)
        assert site.grid is not None
        return reduce_grid(metric, mass, site.grid, site.kept, step)
