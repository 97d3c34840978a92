"""DiffRate (Chen et al., arXiv 2305.17997): how many tokens are pruned and merged is learned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltm.errors import FieldError
from ltm.interfaces import Method
from ltm.merge import Merge, at_least_float32
from ltm.methods._options import check_number, check_switch, check_whole
from ltm.methods._precision import full_precision
from ltm.methods._registry import register_method
from ltm.methods.ranked import prune_and_merge, prune_and_merge_softly, rates

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ltm.interfaces import Evidence, Grids, Plan, Site, SiteInput, SiteKind, Spread


@register_method("diffrate")
class LearnedRates(Method):
    """DiffRate (arXiv 2305.17997): between attention and MLP of every block but the first, prune,
    then merge, with both numbers of tokens kept learned.

    A block has two sets of logits, one logit for each number n of tokens that may stay. Kept are
    t = ceil(sum_n n softmax(logits)_n), with the gradient of the sum. Tokens are ranked by the
    attention from the class token, mean over heads. Those beyond t of the first set are pruned; of
    the others, those beyond t of the second join the most similar of those before it (cosine of
    tokens): a plain mean, where the size that comes in counts times the cosine. Attention adds log
    sizes. In training all tokens stay, and the one of rank j is masked by 1[j < t], with the
    gradient of P(n > j). The loss adds penalty x (GMACs - target)^2, GMACs being those of the
    blocks with min(arriving, t, t) tokens kept, and the target what the plan at the start takes.

    Learned: the logits, all 0 at the start; everything else is frozen. Regime: three epochs, at a
    learning rate of 0.01 to 0.001 (cosine, the recipe's `lr`) and no weight decay.

    The plan always says how many tokens stay outside of training. Before training it is the one
    that was asked for, and then the learned one: it is set after every step, and where weights are
    loaded, so that costs are those of what was learned. Another may be set; how many of those that
    leave are merged, and not pruned, is as learned.

    Ours: of a masked token 1e-12 is left; the softmax in training has no 1e-6 added; a cosine
    below 0 adds nothing to a size. Without a class token it is the mean attention from all tokens.

    penalty: 5. granularity: 1, from one candidate n to the next; the authors' script has 4.
    freeze: only logits learn, as published; false trains everything.
    """

    needs: frozenset[Evidence] = frozenset({"class_attention"})
    spread: Spread = "constant"
    skips = 1
    learns_mass = True
    sees_itself = True
    adds_to_loss = True
    whole_weights = True
    grids: ClassVar[Grids] = "refused"
    why_no_grid = "it learns how many tokens leave a block, by their attention from the class token"
    logits: nn.Parameter | None
    planned: Tensor

    def __init__(
        self,
        sites: Mapping[str, SiteKind],
        penalty: float = 5.0,
        granularity: int = 1,
        freeze: bool = True,
    ) -> None:
        super().__init__()
        self.penalty = check_number("penalty", penalty, 0)
        self.granularity = check_whole("granularity", granularity)
        self.freezes_backbone = check_switch("freeze", freeze)
        self.names = [*sites]
        self.dims = [site.dim for site in sites.values()]
        self.tokens, self.prefix = 0, 0
        self.register_parameter("logits", None)
        # tokens after each block as the plan at the start has it: where the target is from
        self.register_buffer("planned", torch.zeros(len(sites)))
        self._plan: dict[str, int] = {}

    def prepare(self, sites: Mapping[str, Site], like: Tensor) -> None:
        if self.names[0] in sites:
            problem = f"merges at {self.names[0]}, where diffrate keeps all tokens"
            raise FieldError("plan", self.names[0], ", ".join(self.names[1:]), problem)
        tokens = next((site.tokens for site in sites.values()), self.tokens)
        if tokens != self.tokens:
            if self.logits is not None and self.logits.detach().any():
                problem = f"makes {tokens} tokens, and counts were learned for {self.tokens}"
                raise FieldError("image_size", tokens, "the one it was trained at", problem)
            candidates = len(range(tokens, 0, -self.granularity))
            self.logits = nn.Parameter(like.new_zeros(len(self.names) - 1, 2, candidates))
            self.tokens = tokens
        self._plan = {name: site.slots for name, site in sites.items()}

    def forward(self, given: SiteInput) -> Merge:
        assert given.class_attention is not None
        assert self.logits is not None
        site, block = given.site, self.names.index(given.site.name) - 1
        with full_precision(given.tokens):
            score = at_least_float32(given.class_attention.detach()).mean(1)
            unit = F.normalize(at_least_float32(given.tokens.detach()), dim=-1)
            counts, beyond = rates(self.logits[block], self.tokens, self.granularity)
            if not self.training:
                return prune_and_merge(score, unit, site.slots, counts[0])
            self.prefix = given.prefix
            mass = torch.ones_like(score) if given.mass is None else given.mass.to(score.dtype)
            return prune_and_merge_softly(score, unit, mass, counts, beyond)

    def loss_terms(self) -> dict[str, Tensor]:
        if self.logits is None:
            return {}
        counts = rates(self.logits, self.tokens, self.granularity)[0]
        arrive = counts.new_full((), self.tokens)
        kept = [arrive]
        for both in counts:
            least = torch.minimum(arrive, both.min()).detach()
            # as published, the gradient goes to both counts, whichever is the least
            arrive = least + (both - both.detach()).sum()
            kept.append(arrive)
        target = self._gmacs(self._target().unbind())
        return {"gmacs": self.penalty * (self._gmacs(kept) - target).square()}

    def before_training(self, model: Any) -> None:
        if self.logits is not None and self.planned.any():
            model.set_compression(self._learned(self.logits))  # of a run that goes on
        self.planned.copy_(self._target())

    def before_finetuning(self) -> None:
        self.planned.zero_()

    def after_step(self, model: Any, step: int, steps: int) -> None:  # noqa: ARG002
        if self.logits is not None and (plan := self._learned(self.logits)) != model.plan:
            model.set_compression(plan)

    def learned_plan(self, state: Mapping[str, Tensor]) -> Plan | None:
        logits, planned = state.get("method.logits"), state.get("method.planned")
        if logits is None or planned is None or not planned.any():
            return None
        fits = self.logits is not None and self.logits.shape == logits.shape
        return self._learned(logits) if fits else None

    def _learned(self, logits: Tensor) -> dict[str, int]:
        plan, arrive = {}, self.tokens
        counts = rates(logits.detach(), self.tokens, self.granularity)[0].amin(-1)
        for name, count in zip(self.names[1:], counts.int().tolist(), strict=True):
            if count < arrive:
                plan[name] = arrive = count
        return plan

    def _target(self) -> Tensor:
        """Tokens after each block, in the plan at the start: [L]."""
        kept = [self.tokens]
        for name in self.names[1:]:
            kept.append(self._plan.get(name, kept[-1]))
        # filled on the device: a copy there would be waited for
        now = torch.stack([self.planned.new_full((), count) for count in kept])
        return torch.where(self.planned.any(), self.planned, now)

    def _gmacs(self, kept: Sequence[Tensor]) -> Tensor:
        """1e9 MACs of all blocks, for the tokens of the image that each one keeps."""
        total, arrive = kept[0] * 0.0, kept[0] + self.prefix
        for dim, stay in zip(self.dims, kept, strict=True):
            total = total + 4 * arrive * dim**2 + 2 * arrive**2 * dim
            arrive = stay + self.prefix
            total = total + 8 * arrive * dim**2
        return total / 1e9
