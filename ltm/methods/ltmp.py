"""Learned Thresholds Token Merging and Pruning, LTMP (Bonnaerens and Dambre, arXiv 2307.10780)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltm.interfaces import Method
from ltm.merge import Assigned, Merge, Soft, at_least_float32, presence
from ltm.methods._options import check_number, check_switch
from ltm.methods._precision import full_precision
from ltm.methods._registry import register_method
from ltm.methods.matching import join, pairs, reduce_site
from ltm.methods.relaxed import Threshold, partial_merge

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ltm.interfaces import Evidence, SiteInput, SiteKind

TAU = 0.1


class Thresholds(nn.Module):
    """The two learned numbers of a block."""

    def __init__(self) -> None:
        super().__init__()
        self.merge = Threshold(0.9, TAU)
        self.prune = Threshold(0.0, TAU)


def relative_macs(fractions: Tensor, tokens: int, dim: int) -> Tensor:
    """r_FLOPs: MACs of all blocks over those of the network that keeps every token.

    fractions: [L], kept after the merge of each block. A block takes 4 n D^2 + 2 n^2 D for the
    attention, with the tokens that arrive, and 8 n D^2 for the MLP, with those that are left.
    """
    arrive = torch.cat([fractions.new_ones(1), fractions[:-1]])
    linear, pairwise = dim * dim * tokens, dim * tokens**2
    macs = 4 * linear * arrive + 2 * pairwise * arrive**2 + 8 * linear * fractions
    return macs.sum() / (len(fractions) * (12 * linear + 2 * pairwise))


@register_method("ltmp")
class LearnedThresholds(Method):
    """LTMP (arXiv 2307.10780): in every block merge, then prune, each by a learned threshold.

    An A token merges with its most similar B token (ToMe's split) where the cosine of their keys
    is above theta_m, which starts at 0.9; then a token is pruned where its importance, the mean
    attention that it receives, is below theta_p, which starts at 0. Forward the comparison is
    hard, backward it is sigmoid((v - theta) / 0.1). In training all tokens stay and removed ones
    are masked out of the softmax. The loss adds 10 (r_FLOPs - target)^2, the target being
    r_FLOPs of the plan.

    Learned: two numbers a block. Regime: about one epoch, everything else frozen, at a learning
    rate of 5e-3 for merging (the recipe's `lr`) and 5e-6 for pruning.

    Ours: the paper gathers what is above the thresholds, a number that differs between images.
    Here a batch stays rectangular: outside of training the plan says how many A tokens leave a
    block; those above theta_m merge first, the most similar first, then those below theta_p are
    pruned, then the next most similar merge. Where a grid has to stay that is so in training,
    too, within rows and then columns: there is nothing to penalise, and thresholds only learn to
    decide between merging and pruning. Where nothing attends to tokens before the site,
    importance is the softmax of their own cosines, as if their keys were queries.

    penalty: 10, the weight of the penalty.
    freeze: only thresholds learn, as published; false trains everything.
    """

    wants: frozenset[Evidence] = frozenset({"keys", "received"})
    spread = "constant"
    learns_mass = True
    adds_to_loss = True

    def __init__(
        self, sites: Mapping[str, SiteKind], penalty: float = 10.0, freeze: bool = True
    ) -> None:
        super().__init__()
        self.penalty = check_number("penalty", penalty, 0)
        self.freezes_backbone = check_switch("freeze", freeze)
        self.numbers = {name: i for i, name in enumerate(sites)}
        self.blocks = nn.ModuleList(Thresholds() for _ in sites)
        self._kept: dict[str, Tensor] = {}
        self._planned: dict[str, float] = {}
        self._first: tuple[int, int] = (1, 1)

    def rates(self) -> Mapping[str, float]:
        return {".prune.": 1e-3}

    def forward(self, given: SiteInput) -> Merge:
        tokens, site, mass = given.tokens, given.site, given.mass
        thresholds: Any = self.blocks[self.numbers[site.name]]
        with full_precision(tokens):
            metric = at_least_float32((tokens if given.keys is None else given.keys).detach())
            seen = given.received
            received = importance(metric) if seen is None else at_least_float32(seen.detach())
            if mass is None:
                mass = metric.new_ones(metric.shape[:2])
                self._kept, self._planned, self._first = {}, {}, (site.tokens, site.dim)
            mass = mass.to(metric.dtype)
            if self.training and isinstance(site.kept, int):
                merge = threshold_softly(metric, received, mass, thresholds)
                self._kept[site.name] = presence(merge.mass).mean()
                self._planned[site.name] = site.slots / self._first[0]
                return merge

            def step(both: Tensor, mass: Tensor, slots: int) -> Assigned:
                return threshold_to(both[..., :-1], both[..., -1], mass, slots, thresholds)

            return reduce_site(torch.cat([metric, received[..., None]], -1), mass, site, step)

    def loss_terms(self) -> dict[str, Tensor]:
        seen, self._kept = self._kept, {}
        if not seen:
            return {}
        like = next(iter(seen.values()))
        kept, planned = [like.new_ones(())], [1.0]
        for name in self.numbers:  # a block without a site keeps what the one before it did
            kept.append(seen.get(name, kept[-1]))
            planned.append(self._planned.get(name, planned[-1]))
        spent = relative_macs(torch.stack(kept[1:]), *self._first)
        # filled on the device: a copy there would be waited for
        wanted = torch.stack([like.new_full((), part) for part in planned[1:]])
        target = relative_macs(wanted, *self._first)
        return {"flops": self.penalty * (spent - target).square()}


def importance(metric: Tensor) -> Tensor:
    """[B, N, d] -> [B, N]: what the tokens would receive if they attended to each other."""
    unit = F.normalize(metric, dim=-1)
    return (unit @ unit.transpose(1, 2)).softmax(-1).mean(1)


def threshold_softly(
    metric: Tensor, received: Tensor, mass: Tensor, thresholds: Thresholds
) -> Soft:
    """Training: by thresholds alone, with gradients, and no token removed."""
    B, N = mass.shape
    here = mass.detach() > 0.5  # not gone in an earlier block
    likeness, partner = pairs(metric, here)
    merges = thresholds.merge(likeness) * here[:, ::2]
    moved = mass[:, ::2] * merges
    rows = mass.new_zeros(B, merges.shape[1], N).scatter(2, partner[..., None], moved[..., None])
    return partial_merge(mass, merges, rows, thresholds.prune(received))


def threshold_to(
    metric: Tensor, received: Tensor, mass: Tensor, slots: int, thresholds: Thresholds
) -> Assigned:
    """Inference: to a number of slots, in the order that the thresholds say."""
    N = mass.shape[1]
    likeness, partner = pairs(metric)
    source = received[:, ::2]
    merges = thresholds.merge(likeness)
    prunes = (1 - merges) * (1 - thresholds.prune(source))
    # three ranks, each in an order of its own: cosines lie in [-1, 1], importance in [0, 1]
    order = likeness + 4 * merges + prunes * (2 - likeness - source)
    gone = order.detach().argsort(-1, descending=True)[:, : N - slots]
    slot = join(2 * gone, partner.gather(1, gone), N)
    leaves = torch.zeros_like(mass).scatter(1, 2 * gone, 1.0)
    pruned = F.pad(prunes[..., None], (0, 1)).flatten(1)[:, :N] * leaves
    return Assigned.normalised(slot, mass * (1 - pruned), slots)
