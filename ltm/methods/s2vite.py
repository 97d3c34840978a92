"""S2ViTE (Chen et al., arXiv 2106.04533): structure that is dropped and regrown in training."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any
from zlib import crc32

import torch
from torch import Tensor, nn

from ltm.merge.base import at_least_float32
from ltm.methods._options import check_number, check_whole
from ltm.methods._registry import register_method
from ltm.structure.method import StructureMethod, mean_over_ranks
from ltm.structure.parts import Part, Units
from ltm.structure.select import best, swap

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.utils.hooks import RemovableHandle

    from ltm.interfaces import SiteKind
    from ltm.structure import PrunableModel
    from ltm.structure.gate import Gate

LEAST_SHARE = 0.005
PERIODS = 100


@register_method("s2vite")
class DynamicStructure(StructureMethod):
    """S2ViTE (arXiv 2106.04533): a sparse network from the first step, whose structure moves.

    A random choice of heads and hidden units is there at the start, the same share in every layer.
    Then, every `update_every` steps, ceil(rate x those that are there) of a layer die, and as many
    grow of all that are not there then. With the gradients of that step's global batch and A, what
    a head puts out before the projection:

    - a head dies by the mean over images of |sum A dL/dA|, and grows by that of the L1 norm dL/dA,
    - a unit dies by the L1 norm of its row of fc1 and its column of fc2, and grows by that of their
      gradients.

    What has just died may grow again, and has lost nothing then. All else grows from zero: its rows
    of qkv, or its row of fc1 and column of fc2; biases stay. Where these are 0, only fc2 has a
    gradient, |act(bias of fc1)| x L1 norm of the sum of dL/d(output): a unit whose bias is still 0
    as well does not grow before one that has just died. The rate falls along a cosine of all steps,
    from `share` to 0.005. At the end what is closed is removed for good.

    Learned: all weights that stay. Regimes: from scratch (the paper's), or fine-tuned.

    Ours: a head that is not there adds nothing, where the authors' adds its value's bias; its
    columns of the projection leave, too. Scores are those of the global batch, not of the first
    rank's part. The interval is counted in images: the published one, 15,000 steps of 512, is a
    hundredth of 600 epochs of ImageNet, and it is a hundredth of any run. On MobileViT and
    EfficientViT; EfficientViT's expanded channels grow as heads do.

    update_every: steps from one update to the next; by default a hundredth of all.
    share: 0.5, of the components that are there, at the start.
    until: 0.8, the part of training in which structure changes.
    """

    def __init__(
        self,
        sites: Mapping[str, SiteKind],  # noqa: ARG002
        update_every: int | None = None,
        share: float = 0.5,
        until: float = 0.8,
    ) -> None:
        super().__init__()
        given = update_every is not None
        self.update_every = check_whole("update_every", update_every) if given else None
        self.share = check_number("share", share, 0, 1)
        self.until = check_number("until", until, 0, 1)
        self._seed = torch.initial_seed()
        self._hooks: list[RemovableHandle] = []
        self._sums: dict[nn.Parameter, Tensor] = {}

    def at_start(self, part: Part, count: int) -> Tensor:
        """By chance, the same whenever a part is asked for: of torch's seed and the part's name."""
        chance = torch.Generator().manual_seed((self._seed + crc32(part.name.encode())) % 2**63)
        return best(torch.rand(part.size, generator=chance), count)

    def rate_at(self, step: int, steps: int) -> float:
        """Of the components that are there, how many die at this step of all steps."""
        every = self.update_every or max(1, round(steps / PERIODS))
        if not 0 < step < self.until * steps or step % every:
            return 0.0
        least = min(LEAST_SHARE, self.share)
        return least + (self.share - least) / 2 * (1 + math.cos(math.pi * step / steps))

    def before_training(self, model: PrunableModel) -> None:
        self._watch(model)  # the next step may be one with an update

    @torch.no_grad()
    def after_step(self, model: PrunableModel, step: int, steps: int) -> tuple[nn.Parameter, ...]:
        rate, zeroed = self.rate_at(step, steps), []
        if rate > 0:
            for part, gate in model.gated:
                zeroed += self._update(part, gate, rate)
        self._stop(model)
        if self.rate_at(step + 1, steps) > 0:
            self._watch(model)
        return tuple(zeroed)

    def _update(self, part: Part, gate: Gate, rate: float) -> list[nn.Parameter]:
        """The weights of which some were set to 0."""
        seen = gate.take()
        if seen is None:
            return []
        effect, slope = mean_over_ranks(torch.stack(seen))
        worth = effect if part.heads else part.magnitude()
        before = gate.kept.clone()
        promise = self._growth(part, before) if isinstance(part, Units) else slope
        gate.close(swap(before, worth, promise, rate))
        grown = gate.kept & ~before
        for weight, view in part.own_weights():
            rows = view(weight.data)
            rows.masked_fill_(grown.view(-1, *[1] * (rows.ndim - 1)), 0)
        return [weight for weight, _ in part.own_weights()]

    def _growth(self, part: Part, kept: Tensor) -> Tensor:
        """L1 norms [K] of gradients by the weights of units, as if what is closed were 0."""
        there = torch.zeros(len(kept), device=kept.device)
        for weight, view in part.own_weights():
            if weight in self._sums:
                there = there + view(mean_over_ranks(self._sums[weight])).abs().sum(1)
        fc1, fc2 = part.module.fc1.bias, part.module.fc2.bias
        if fc1 is None or fc2 not in self._sums:
            return there
        outgoing = mean_over_ranks(self._sums[fc2]).abs().sum()
        return torch.where(kept, there, part.module.act(fc1).abs() * outgoing)

    def _watch(self, model: PrunableModel) -> None:
        self._stop(model)
        for part, gate in model.gated:
            gate.watched = True
            if isinstance(part, Units):
                module = part.module
                for weight in (module.fc1.weight, module.fc2.weight, module.fc2.bias):
                    if weight is not None and weight.requires_grad:
                        self._hooks.append(weight.register_hook(partial(self._add, weight)))

    def _stop(self, model: PrunableModel) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._sums = [], {}
        for _, gate in model.gated:
            gate.watched = False
            gate.take()

    def _add(self, weight: nn.Parameter, gradient: Tensor) -> None:
        own = at_least_float32(gradient.detach())
        # not the tensor itself, which becomes the weight's gradient and changes with it
        self._sums[weight] = self._sums[weight] + own if weight in self._sums else own.clone()

    def __getstate__(self) -> dict[str, Any]:
        """Without hooks, which are of the original's weights: a copy begins to watch anew."""
        return {**self.__dict__, "_hooks": [], "_sums": {}}
