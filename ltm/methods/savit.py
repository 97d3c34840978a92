"""SAViT (Zheng et al., NeurIPS 2022): joint pruning of heads and units, then fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ltm.methods._options import check_whole
from ltm.methods._registry import register_method
from ltm.structure.method import StructureMethod, all_rows
from ltm.structure.select import remove, taylor_cost

if TYPE_CHECKING:
    from ltm.interfaces import SiteKind
    from ltm.structure import PrunableModel


@register_method("savit")
class CollaborativePruning(StructureMethod):
    """SAViT (NeurIPS 2022): heads and hidden units leave together, at the least cost of the loss.

    With s_i the first-order Taylor term of component i in one image, the sum of w * dL/dw over the
    weights that read its output, removing a set R costs the mean over images of (sum over R of
    s_i)^2: squared terms s_i^2, and cross terms 2 s_i s_j between all components, of one kind or of
    two. Those of the lowest cost per MAC leave, until the MACs are the requested ones
    (`ltm.structure.select`); then the network is trained on. `recipe.distill` brings the paper's
    distillation.

    Learned: all weights that stay. Regime: a trained network (`model.pretrained` or
    `model.checkpoint`), pruned once, then fine-tuned. Before the scoring pass, and so
    off-the-shelf, components leave by L1 norms, the same share everywhere.

    Ours: the greedy order, where the paper searches; the residual width stays.

    images: 512, how many training images are scored.
    """

    def __init__(self, sites: Mapping[str, SiteKind], images: int = 512) -> None:  # noqa: ARG002
        super().__init__()
        self.scoring_images = check_whole("images", images)
        self._samples: list[Tensor] = []

    def before_scoring(self, model: PrunableModel) -> None:
        self._samples = []
        for _, gate in model.gated:
            gate.close(torch.ones_like(gate.kept))
            gate.watched = "image"

    def score(self, model: PrunableModel, loss: Tensor) -> None:
        leaves = [gate.take_leaf() for _, gate in model.gated]
        terms = torch.autograd.grad(loss, leaves)
        # the loss is a mean: what each image adds to it is 1/n of its own
        self._samples.append(torch.cat(terms, 1).detach().float() * len(terms[0]))

    def after_scoring(self, model: PrunableModel) -> None:
        samples = all_rows(torch.cat(self._samples)).cpu()
        self._samples = []
        for (_, gate), kept in zip(model.gated, self.choose(model, samples), strict=True):
            gate.watched = None
            gate.close(kept)

    def choose(self, model: PrunableModel, samples: Tensor) -> list[Tensor]:
        """What every part keeps, by terms [n, K] of all components in the order of the parts."""
        parts = [part for part, _ in model.gated]
        sizes = torch.tensor([part.size for part in parts])
        macs = torch.tensor([model.part_gmacs[part.name] for part in parts], dtype=torch.float64)
        to = model.compression
        if isinstance(to, Mapping):
            plan = model.plan_for(to)
            least = torch.tensor([plan[part.name] for part in parts])
            excess = float("inf")
        else:
            least = torch.ones_like(sizes)
            now = model.gmacs_of({part.name: part.size for part in parts})
            excess = max(0.0, now - model.target_gmacs(to))
        numbers = torch.arange(len(parts)).repeat_interleave(sizes)
        each = macs.repeat_interleave(sizes)
        kept = remove(taylor_cost(samples.double()), each, numbers, least, excess)
        return list(kept.split(sizes.tolist()))
