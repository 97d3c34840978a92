"""S2ViTE (Chen et al., arXiv 2106.04533): structure that is dropped and regrown in training."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from ltm.methods._options import check_number, check_whole
from ltm.methods._registry import register_method
from ltm.structure.method import StructureMethod, mean_over_ranks
from ltm.structure.select import swap

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ltm.interfaces import SiteKind
    from ltm.structure import PrunableModel


@register_method("s2vite")
class DynamicStructure(StructureMethod):
    """S2ViTE (arXiv 2106.04533): a sparse network from the first step, whose structure moves.

    Every `update_every` steps, a share of the components that are there gives way to as many that
    are not, in every part of the network: heads of the least Taylor score |sum of w * dL/dw| and
    hidden units of the least L1 norm leave, and those come back that the loss has the largest
    gradient for. Scores and gradients are those of global batches, summed over the steps since the
    last update. The share falls along a cosine, share / 2 (1 + cos(pi step / (until x steps))), to
    0. Then the structure stays, and what is closed is removed for good when the network is loaded.

    Learned: all weights that stay. Regimes: from scratch (the paper's), or fine-tuned.

    Ours: every part keeps the same share, so that the MACs are known before training; a component
    comes back with the weights that it left with, where unstructured methods begin at 0. The
    defaults of the options are ours, too.

    update_every: 2000, steps from one update to the next.
    share: 0.3, of the components that are there, at the first update.
    until: 0.75, the part of training in which structure changes.
    """

    def __init__(
        self,
        sites: Mapping[str, SiteKind],  # noqa: ARG002
        update_every: int = 2000,
        share: float = 0.3,
        until: float = 0.75,
    ) -> None:
        super().__init__()
        self.update_every = check_whole("update_every", update_every)
        self.share = check_number("share", share, 0, 1)
        self.until = check_number("until", until, 0, 1)

    def share_at(self, step: int, steps: int) -> float:
        """Of the components that are there, how many change at this step of all steps."""
        if step % self.update_every or step >= self.until * steps:
            return 0.0
        return self.share / 2 * (1 + math.cos(math.pi * step / (self.until * steps)))

    def before_training(self, model: PrunableModel) -> None:
        for _, gate in model.gated:
            gate.watched = "batch"

    @torch.no_grad()
    def after_step(self, model: PrunableModel, step: int, steps: int) -> None:
        gated, share = model.gated, self.share_at(step, steps)
        gradients = [gate.take_gradient() for _, gate in gated]
        seen = [gradient[0] for gradient in gradients if gradient is not None]
        if seen and step <= self.until * steps:
            # of the global batch, so that any number of ranks scores the same
            mean = mean_over_ranks(torch.cat(seen))
            for (_, gate), own in zip(gated, mean.split([len(x) for x in seen]), strict=True):
                gate.score += own.abs()
        if share > 0:
            for part, gate in gated:
                worth = gate.score if part.heads else part.magnitude()
                kept = swap(gate.kept, worth, gate.score, round(share * int(gate.kept.sum())))
                gate.close(kept)
                gate.score.zero_()
