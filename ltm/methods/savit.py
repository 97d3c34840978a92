"""SAViT (Zheng et al., NeurIPS 2022): joint pruning of heads and units, then fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ltm.merge.base import at_least_float32
from ltm.methods._options import check_whole
from ltm.methods._registry import register_method
from ltm.structure.method import StructureMethod, all_rows
from ltm.structure.select import ROUNDING, best, joint

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from ltm.interfaces import SiteKind
    from ltm.structure import PrunableModel
    from ltm.structure.gate import Gate

BATCH = 32
LEAST_SHARE = 0.05


@register_method("savit")
class CollaborativePruning(StructureMethod):
    """SAViT (NeurIPS 2022): heads and hidden units leave together, once, before training.

    Each has a gate of value 1: heads after attention, units before the activation. With L the loss
    of a batch of 32, averaged over batches of training images:

    - a component's own score is (dL/dgate)^2,
    - the interaction of two classes is c_ij = sum of d2L/dgate dgate over all pairs of gates, one
      of class i and one of class j, by the channels of the two classes.

    The shares r that leave minimise sum_ij c_ij r_i r_j among all that reach the requested MACs;
    then of each class the lowest own scores leave, from all layers, of which each keeps its best
    5 %, and one at least (`ltm.structure.select.joint`). Then the network is trained on.

    Learned: all weights that stay. Regime: a trained network (`model.pretrained` or
    `model.checkpoint`), pruned once, then fine-tuned. Before the scoring pass, and so
    off-the-shelf, components leave by L1 norms, the same share everywhere.

    Ours: the residual width stays, the third class of the paper, so that its figures are no
    comparison. With two classes the search is complete, where the paper's is evolutionary. Second
    derivatives are those of all pairs of layers, where the authors draw one pair a batch, and
    images are not mixed. Any number of workers sees the same batches, and so removes the same. The
    authors' protection of 5 % loses the order of what it protects; here it does not. Where a plan
    says how many stay in a part, those of the highest own scores do. EfficientViT's expanded
    channels have their gate before the projection.

    The scoring pass takes the time and memory of second derivatives, with unfused attention.

    images: 128000, how many training images are scored, 4,000 batches: a tenth of an epoch of
        ImageNet; an epoch of a smaller set.
    """

    def __init__(self, sites: Mapping[str, SiteKind], images: int = 128_000) -> None:  # noqa: ARG002
        super().__init__()
        self.scoring_images = check_whole("images", images)
        self._hooks: list[RemovableHandle] = []
        self._fused: list[Any] = []
        self._forget()

    def before_scoring(self, model: PrunableModel) -> None:
        self._forget()
        for index, (part, gate) in enumerate(model.gated):
            gate.close(torch.ones_like(gate.kept))
            scaled = partial(self._scale, index, gate)
            self._hooks.append(part.scored.register_forward_pre_hook(scaled))
            if getattr(part.module, "fused_attn", False):  # has no second derivative
                part.module.fused_attn = False
                self._fused.append(part.module)

    def _forget(self) -> None:
        self._leaves: dict[int, Tensor] = {}
        self._waiting: list[Tensor] = []
        self._own: Tensor | None = None
        self._between = torch.zeros(2, 2, dtype=torch.float64)
        self._images = self._batches = 0

    def _scale(self, index: int, gate: Gate, _: nn.Module, given: tuple[Any, ...]) -> Tensor:
        """The input of a module, times a gate for each image."""
        x: Tensor = given[0]
        if index not in self._leaves:  # a block that is computed again has the same
            ones = torch.ones(len(x) // gate.rows, len(gate.kept), device=x.device)
            self._leaves[index] = at_least_float32(ones.to(x.dtype)).requires_grad_()
        return gate.scaled(x, self._leaves[index])

    def score(self, model: PrunableModel, loss: Tensor) -> None:
        leaves = [self._leaves[index] for index in range(len(self._leaves))]
        self._leaves = {}
        first = torch.cat(torch.autograd.grad(loss, leaves, create_graph=True), 1)
        heads = self._heads(model).to(first.device)
        between = []
        for members in (heads, ~heads):
            total = first[:, members].sum()
            by = torch.autograd.grad(
                total, leaves, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            second = torch.cat(by, 1)
            between += [second[:, other].sum(1, keepdim=True) for other in (heads, ~heads)]
        # the loss is a mean: what each image adds to it is 1/n of its own
        rows = torch.cat([first, *between], 1).detach() * len(first)
        self._take(all_rows(rows))

    def _take(self, rows: Tensor) -> None:
        """Derivatives of images [n, K + 4], in the order of the data; they count by whole batches,
        or together where the data has fewer."""
        rows = rows[: self.scoring_images - self._images]
        self._images += len(rows)
        self._between = self._between.to(rows.device) + rows[:, -4:].double().sum(0).view(2, 2)
        waiting = torch.cat([*self._waiting, rows[:, :-4].double()])
        whole = len(waiting) // BATCH * BATCH
        self._waiting = [waiting[whole:]]
        if whole:
            self._count(waiting[:whole].unflatten(0, (-1, BATCH)))

    def _count(self, batches: Tensor) -> None:
        squares = batches.mean(1).square().sum(0)
        self._own = squares if self._own is None else self._own + squares
        self._batches += len(batches)

    def after_scoring(self, model: PrunableModel) -> None:
        for hook in self._hooks:
            hook.remove()
        for module in self._fused:
            module.fused_attn = True
        self._hooks, self._fused = [], []
        if self._own is None:
            self._count(self._waiting[0][None])
        assert self._own is not None
        own = self._own.cpu() / self._batches
        between = self._between.cpu() / self._images
        self._forget()
        for (_, gate), kept in zip(model.gated, self.choose(model, own, between), strict=True):
            gate.close(kept)

    def choose(self, model: PrunableModel, own: Tensor, between: Tensor) -> list[Tensor]:
        """What every part keeps, by own scores [K] of all components in the order of the parts, and
        the sums of second derivatives [2, 2] of heads and units."""
        parts = [part for part, _ in model.gated]
        sizes = torch.tensor([part.size for part in parts])
        by_part = own.split(sizes.tolist())
        to = model.compression
        if isinstance(to, Mapping):
            plan = model.plan_for(to)
            return [best(x, plan[part.name]) for x, part in zip(by_part, parts, strict=True)]
        heads = self._heads(model)
        wide = torch.cat([torch.full((len(gate.kept),), gate.width) for _, gate in model.gated])
        costs = torch.tensor([model.part_gmacs[part.name] for part in parts], dtype=torch.float64)
        numbers = torch.arange(len(parts)).repeat_interleave(sizes)
        least = (sizes * LEAST_SHARE).long().clamp(min=1)
        now = model.gmacs_of({part.name: part.size for part in parts})
        excess = max(0.0, now - model.target_gmacs(to))
        channels = torch.stack([wide[heads].sum(), wide[~heads].sum()]).clamp(min=1)
        between = between / (channels[:, None] * channels)
        macs = costs.repeat_interleave(sizes)
        for floor in (least, torch.ones_like(least)):  # a budget may ask for more than 5 % leave
            kept = joint(own, between, macs, numbers, heads, floor, excess)
            if float(macs[~kept].sum()) >= excess - ROUNDING:
                break
        return list(kept.split(sizes.tolist()))

    def _heads(self, model: PrunableModel) -> Tensor:
        """[K] bool, of all components in the order of the parts: whether it is a head."""
        return torch.cat([torch.full((part.size,), part.heads) for part, _ in model.gated])
