"""Learned Thresholds Token Merging and Pruning, LTMP (Bonnaerens and Dambre, arXiv 2307.10780)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltm.errors import FieldError
from ltm.interfaces import Method
from ltm.merge import Assigned, Merge, at_least_float32
from ltm.methods._options import check_number, check_switch
from ltm.methods._precision import full_precision
from ltm.methods._registry import register_method
from ltm.methods._thresholds import Thresholds, Tokens, decide, decide_on_grid, decide_softly
from ltm.methods.matching import reduce_site

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ltm.interfaces import Evidence, SiteInput, SiteKind


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

    After the attention, an A token (ToMe's split, the class token counted) merges with its most
    similar B token where the cosine of their keys is above theta_m, which starts at 0.9. The B
    token's importance, the mean attention that it receives, becomes the largest of all that merged
    into it. Then any token is pruned whose importance is not above theta_p, which starts at 0.
    Forward the comparison is hard, backward it is sigmoid((v - theta) / tau); thresholds stay in
    [0, 1]. In training all tokens stay, and those that left are masked out of the softmax; their
    mask keeps the gradient of the decision by which they did, and that of the others has the one of
    the last decision alone. The loss adds penalty x (r_FLOPs - target)^2, the target being r_FLOPs
    of the plan. At inference what is above the thresholds is gathered, a number that differs
    between images: on an untrained network nearly all, whatever the plan says.

    Learned: two numbers a block. Regime: one epoch, everything else frozen, at a learning rate of
    5e-3 for merging (the recipe's `lr`) and 5e-6 for pruning.

    Ours: images of a batch are padded to the one with the most tokens, and a compiled or exported
    network keeps places for all; `count` counts those of the plan. One token of an image always
    stays. In training importance is that among the tokens that are left, as at inference (the
    authors' code counts the queries of the others, too, and adds 1e-5 to its masked softmax).
    Without `varies`, and where a grid has to stay, the plan says how many tokens leave: those above
    theta_m merge first, the most similar first, then those below theta_p are pruned, the least
    important first, then the next most similar merge. On a grid that is so in training, too,
    within rows and then columns, and A tokens alone leave: there is nothing to penalise, and
    thresholds only learn to decide between merging and pruning. Where nothing attends to tokens
    before the site, importance is the softmax of their own cosines, as if their keys were queries.

    penalty: 10, the weight of the penalty. tau: 0.1.
    freeze: only thresholds learn, as published; false trains everything.
    varies: at inference thresholds alone decide, as published, the default where no grid has to
        stay; false keeps as many tokens of every image as the plan says.
    """

    wants: frozenset[Evidence] = frozenset({"keys", "received"})
    spread = "constant"
    learns_mass = True
    adds_to_loss = True

    def __init__(
        self,
        sites: Mapping[str, SiteKind],
        penalty: float = 10.0,
        tau: float = 0.1,
        freeze: bool = True,
        varies: bool | None = None,
    ) -> None:
        super().__init__()
        self.penalty = check_number("penalty", penalty, 0)
        tau = check_number("tau", tau, above=0)
        self.freezes_backbone = check_switch("freeze", freeze)
        on_grid = any(site.needs_grid for site in sites.values())
        self.varies = not on_grid if varies is None else check_switch("varies", varies)
        if self.varies and on_grid:
            raise FieldError("options.varies", varies, "false where the network needs a grid")
        self.numbers = {name: i for i, name in enumerate(sites)}
        self.blocks = nn.ModuleList(Thresholds(tau) for _ in sites)
        self._kept: dict[str, Tensor] = {}
        self._planned: dict[str, float] = {}
        self._first: tuple[int, int] = (1, 1)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}}  # a copy has no part in what waits for the loss

    def rates(self) -> Mapping[str, float]:
        return {".prune.": 1e-3}

    def forward(self, given: SiteInput) -> Merge:
        tokens, site, mass = given.tokens, given.site, given.mass
        thresholds: Any = self.blocks[self.numbers[site.name]]
        with full_precision(tokens):
            metric = at_least_float32(tokens if given.keys is None else given.keys)
            seen = given.received
            received = importance(metric) if seen is None else at_least_float32(seen)
            if mass is None:
                mass = metric.new_ones(metric.shape[:2])
                self._kept, self._planned = {}, {}
                self._first = given.prefix + site.tokens, site.dim
            mass = mass.to(metric.dtype)
            if not isinstance(site.kept, int):

                def step(both: Tensor, mass: Tensor, slots: int) -> Assigned:
                    return decide_on_grid(both[..., :-1], both[..., -1], mass, slots, thresholds)

                both = torch.cat([metric, received[..., None]], -1).detach()
                return reduce_site(both, mass, site, step)

            decided_by = Tokens(metric, received, mass, given.prefix)
            if not self.training:
                slots = None if self.varies else site.slots
                return decide(decided_by, thresholds, given.present, slots, site.slots)
            merge, left = decide_softly(decided_by, thresholds)
            self._kept[site.name] = F.pad(left, (given.prefix, 0), value=1.0).mean()
            self._planned[site.name] = (given.prefix + site.slots) / self._first[0]
            return merge

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

    @torch.no_grad()
    def after_step(self, model: Any, step: int, steps: int) -> None:  # noqa: ARG002
        for theta in self.parameters():
            theta.clamp_(0, 1)


def importance(metric: Tensor) -> Tensor:
    """[B, N, d] -> [B, N]: what the tokens would receive if they attended to each other."""
    unit = F.normalize(metric, dim=-1)
    return (unit @ unit.transpose(1, 2)).softmax(-1).mean(1)
