"""Learnable Token Merging: a start mask, then a learned step down the information bottleneck.

The recursion is the paper's (arXiv 2407.15219, section 3): G_l = G_(l-1) - eta grad IBB(G). Its
gradient needs the label, see `ltm.bottleneck.mask_gradient`; the label-free form that a network
can run at inference, the start masks and their sharing over sites are ours, for the paper leaves
the module open.

Legend: B images, N tokens, P slots, D channels, R rank of the mask's own space, M codes.
"""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltm.errors import FieldError
from ltm.interfaces import Method
from ltm.merge import Assigned, Local, Merge, at_least_float32
from ltm.methods._options import WIDEST, check_whole
from ltm.methods._precision import full_precision
from ltm.methods._registry import register_method
from ltm.methods.matching import join, pairs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ltm.interfaces import Grid, Site, SiteInput, SiteKind

# within a slot, no source is lighter than e^-10 of the heaviest: all keep a gradient
_MAX_LOGIT = 10.0
STARTS = ("salient", "alike")


class LearnedStep(nn.Module):
    """The gradient of the bound without the label: learned codes c_a and learned omega_a.

        pi_pa  = softmax_a(-b ||m_p - c_a||^2)
        A_p    = sum_a pi_pa (omega_a - sum_a pi_pa omega_a) c_a
        step_p = eta A_p / sqrt(R)

    A is that of `ltm.bottleneck.mask_gradient` with codes in the place of centroids and omega in
    the place of log Q(a|y). Every omega starts at 0, so the step does too, and each has its own
    gradient from the first update on.

    A module of its own that maps a tensor to a tensor: sharded training (ZeRO 3) gathers
    parameters where a tensor leaves the module that owns them.
    """

    def __init__(self, rank: int, codes: int) -> None:
        super().__init__()
        self.rank = rank
        self.codes = nn.Parameter(torch.empty(codes, rank))
        self.omega = nn.Parameter(torch.empty(codes))
        self.log_b = nn.Parameter(torch.empty(1))
        self.eta = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Codes as wide as the tokens' unit variance, and each token near a few of them.

        eta is large so that omega, which an optimizer moves by tenths, moves logits by ones.
        """
        nn.init.normal_(self.codes)
        nn.init.zeros_(self.omega)
        nn.init.constant_(self.log_b, math.log(4 / self.rank))
        nn.init.constant_(self.eta, 4 * self.rank**0.5)

    def forward(self, m: Tensor) -> Tensor:
        """Merged tokens m [B, P, R] -> the step of their slots, [B, P, R]."""
        codes, omega, log_b, eta = (
            at_least_float32(x) for x in (self.codes, self.omega, self.log_b, self.eta)
        )
        # ||m||^2 is the same for all codes and leaves the softmax as it is
        distance = codes.square().sum(-1) - 2 * m @ codes.T
        pi = (-log_b.exp() * distance).softmax(-1)
        pull = pi * (omega - (pi * omega).sum(-1, keepdim=True))
        return pull @ codes * (eta / self.rank**0.5)


class MaskModule(nn.Module):
    """Merging masks for tokens of one width; one module serves every site of that width.

    z = U LayerNorm(Z) has R channels, plus one more: the saliency of a token. Where a grid stays,
    the start mask S_0 has anchors on it (`window_anchors`). Where a number of tokens is kept,
    either the most salient ones are anchors (`join_most_similar`), or tokens that are alike join
    unless they are salient, and sizes count (`match_unless_salient`). Then, with
    m_p = sum_n G_np z_n and `LearnedStep`,

        S_np <- S_np + z_n . step_p

    A new model is a plain merge by S_0: saliency starts at 0 everywhere, or, where it alone has to
    choose anchors, at a random direction.
    """

    def __init__(
        self, dim: int, on_grid: bool, rank: int = 16, codes: int = 32, *, alike: bool = False
    ) -> None:
        super().__init__()
        self.dim = dim
        self.rank = rank
        self.alike = alike
        self.project = nn.Linear(dim, rank + 1, bias=False)
        self.step = LearnedStep(rank, codes)
        # LayerNorm gives unit variance a channel; this keeps z and the saliency at that.
        nn.init.normal_(self.project.weight, std=dim**-0.5)
        if on_grid or alike:
            nn.init.zeros_(self.project.weight[rank:])

    def forward(self, given: SiteInput) -> Merge:
        tokens, site = given.tokens, given.site
        with full_precision(tokens):
            h = F.layer_norm(at_least_float32(tokens), (self.dim,))
            # an engine may keep weights in half precision
            projected = at_least_float32(self.project(h.to(self.project.weight.dtype)))
            z, saliency = projected.split([self.rank, 1], dim=-1)
            start = saliency = saliency.squeeze(-1)
            if self.alike and given.mass is not None:
                start = saliency + at_least_float32(given.mass).log()
            if not isinstance(site.kept, int):
                return self._grid(z, start, site)
            if self.alike:
                metric = h if given.keys is None else at_least_float32(given.keys)
                slot = match_unless_salient(metric.detach(), saliency.detach(), site.slots)
            else:
                slot = join_most_similar(h.detach(), saliency, site.slots)
            return self._content(z, start, slot, site.slots)

    def _grid(self, z: Tensor, saliency: Tensor, site: Site) -> Merge:
        assert site.grid is not None
        assert not isinstance(site.kept, int)
        index, start = window_anchors(site.grid, site.kept, z.device)
        near = z[:, index]  # [B, P, K, R]
        start = start + saliency[:, index]
        G = start.softmax(-1)
        m = (G[..., None] * near).sum(2)
        S = start + (near * self.step(m)[:, :, None]).sum(-1)
        return Local(index, S.softmax(-1), site.tokens)

    def _content(self, z: Tensor, start: Tensor, slot: Tensor, slots: int) -> Merge:
        merge = Assigned.normalised(slot, anchored_weight(start, slot, slots), slots)
        step = self.step(merge(z))
        S = start + (z * merge.unmerge(step)).sum(-1)
        return Assigned.normalised(slot, anchored_weight(S, slot, slots), slots)


def match_unless_salient(metric: Tensor, saliency: Tensor, slots: int) -> Tensor:
    """The slot of each token, [B, N], by ToMe's matching, which spares tokens that are salient.

    An A token joins its most similar B token, and those leave whose cosine less their saliency is
    largest. More than half of the tokens take several rounds: a slot has the mean metric and the
    largest saliency of its tokens. Slots keep the order of the image.

    metric: [B, N, d]. saliency: [B, N].
    """
    N = metric.shape[1]
    leave = min(N - slots, N // 2)
    likeness, partner = pairs(metric)
    gone = (likeness - saliency[:, ::2]).topk(leave, dim=1).indices
    slot = join(2 * gone, partner.gather(1, gone), N)
    left = N - leave
    if left == slots:
        return slot
    merged = Assigned.normalised(slot, torch.ones_like(saliency), left)(metric)
    return match_unless_salient(merged, largest(saliency, slot, left), slots).gather(1, slot)


def join_most_similar(h: Tensor, saliency: Tensor, slots: int) -> Tensor:
    """Content anchors: the most salient tokens are slots, the others join the most similar one.

    h: [B, N, D], rows of equal norm, so that the inner product ranks as the cosine does.
    saliency: [B, N]. Returns the slot of each token, [B, N]; slots keep the order of the image.
    """
    B, N = saliency.shape
    rank = saliency.argsort(dim=1, descending=True)
    anchors = rank[:, :slots].sort(dim=1).values
    rest = rank[:, slots:]

    def rows(index: Tensor) -> Tensor:
        return h.gather(1, index[..., None].expand(-1, -1, h.shape[-1]))

    nearest = (rows(rest) @ rows(anchors).transpose(1, 2)).argmax(-1)
    own = torch.arange(slots, device=h.device).expand(B, slots)
    slot = torch.zeros(B, N, dtype=torch.long, device=h.device)
    return slot.scatter(1, anchors, own).scatter(1, rest, nearest)


def largest(x: Tensor, slot: Tensor, slots: int) -> Tensor:
    """The largest x [B, N] of each slot, [B, P]."""
    lowest = x.new_full((x.shape[0], slots), -torch.inf)
    return lowest.scatter_reduce(1, slot, x, "amax")


def anchored_weight(S: Tensor, slot: Tensor, slots: int) -> Tensor:
    """exp(S) relative to the largest of each slot, [B, N]: positive, and finite in float32."""
    top = largest(S.detach(), slot, slots)
    return (S - top.gather(1, slot)).clamp_min(-_MAX_LOGIT).exp()


def window_anchors(grid: Grid, kept: Grid, device: torch.device) -> tuple[Tensor, Tensor]:
    """Grid anchors: slots on an even grid, each with the tokens of a window around it.

    A window is 3 x 3 (less where the grid is smaller), or wide enough to leave no gap.
    Returns the sources [P, K] of every slot, and start logits [P, K] that fall off with the
    squared distance between token and anchor in units of the anchors' spacing.
    """
    (rows, dy), (columns, dx) = (
        _windows(size, keep, device) for size, keep in zip(grid, kept, strict=True)
    )
    index = rows[:, None, :, None] * grid[1] + columns[None, :, None, :]
    logits = -2 * (dy[:, None, :, None].square() + dx[None, :, None, :].square())
    return index.flatten(0, 1).flatten(1), logits.flatten(0, 1).flatten(1)


def _windows(size: int, keep: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Along one axis: the sources of each anchor, and their distance from it, [keep, width]."""
    width = min(size, max(3, -(-size // keep)))
    anchor = torch.arange(keep, device=device)[:, None]
    # (2i + 1) size / (2 keep) is the centre of anchor i, in tokens from the edge
    start = ((2 * anchor + 1) * size - keep * width + keep) // (2 * keep)
    index = start.clamp(0, size - width) + torch.arange(width, device=device)
    centre = (2 * anchor + 1) * size / (2 * keep) - 0.5
    return index, (index - centre) * (keep / size)


@register_method("ltm")
class LearnableTokenMerging(Method):
    """LTM, the method of the paper (arXiv 2407.15219).

    rank, codes: size of the mask module, see `MaskModule`.
    start: what a network does before it has learned, where no grid has to stay: "salient", whose
        random direction is for training, or "alike", ToMe's matching, for trained networks.
    """

    grids = "published"
    untrained_options = MappingProxyType({"start": "alike"})

    def __init__(
        self,
        sites: Mapping[str, SiteKind],
        rank: int = 16,
        codes: int = 32,
        start: str = "salient",
    ) -> None:
        super().__init__()
        rank, codes = check_whole("rank", rank, WIDEST), check_whole("codes", codes, WIDEST)
        if start not in STARTS:
            raise FieldError("options.start", start, choices=list(STARTS))
        alike = start == "alike"
        on_grids = all(kind.needs_grid for kind in sites.values())
        self.ready_untrained = alike or on_grids
        if alike and not on_grids:
            self.wants = frozenset({"keys"})
        self.masks = nn.ModuleDict()
        for dim, needs_grid in sorted({(kind.dim, kind.needs_grid) for kind in sites.values()}):
            self.masks[str(dim)] = MaskModule(dim, needs_grid, rank, codes, alike=alike)

    def forward(self, given: SiteInput) -> Merge:
        merge: Merge = self.masks[str(given.site.dim)](given)
        return merge
