"""The recipe: optimizer, learning-rate schedule and loss, from timm and the IB bound."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2, get_optimizer_info
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn

from ltm_platform.training.distillation import divergence

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from ltm.bottleneck import StreamingBottleneck
    from ltm_platform.job import Recipe
    from ltm_platform.training.distillation import Teacher

_OF_WHOLE_TENSORS = {
    "Adafactor",
    "AdafactorBigVision",
    "AdamP",
    "Kron",
    "Lamb",
    "Lars",
    "Mars",
    "Muon",
    "NovoGrad",
    "NvNovoGrad",
    "SGDP",
}


def build_optimizer(model: nn.Module, recipe: Recipe) -> Optimizer:
    """timm's optimizer of that name, of all that is not frozen.

    Biases and norms carry no weight decay. With ``layer_decay`` the rate falls from the classifier
    to the first layer, by timm's order of layers; a method's own parameters have the full one.
    """
    return create_optimizer_v2(
        model,
        opt=recipe.optimizer,
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        layer_decay=recipe.layer_decay,
    )


def is_elementwise(optimizer: str) -> bool:
    """Whether timm's optimizer treats a tensor in pieces as it treats the whole.

    ZeRO stages 1 to 3 give it flat pieces, so one that looks at the shape or a norm of a tensor
    (LAMB, LARS, Muon, the mask of a "cautious" one) would depend on the number of workers.
    """
    info = get_optimizer_info(optimizer)
    cautious = (info.defaults or {}).get("caution", False)
    return not cautious and info.opt_class.__name__ not in _OF_WHOLE_TENSORS


def build_schedule(optimizer: Optimizer, recipe: Recipe, steps_per_epoch: int) -> CosineLRScheduler:
    """Linear warm-up to ``lr``, then half a cosine down to ``min_lr``, stepped every update."""
    warmup = round(recipe.warmup_epochs * steps_per_epoch)
    return CosineLRScheduler(
        optimizer,
        t_initial=max(1, recipe.epochs * steps_per_epoch - warmup),
        lr_min=recipe.min_lr,
        warmup_t=warmup,
        warmup_lr_init=min(recipe.min_lr, recipe.lr),
        warmup_prefix=True,
        t_in_epochs=False,
    )


class Objective:
    """The two phases of LTM's training loss.

    Label-smoothed cross-entropy during the first ``ib.warmup`` share of the epochs, while features
    and centroids settle; then cross-entropy + ``ib.weight`` x the IB bound. With a teacher,
    ``distill.weight`` of the cross-entropy gives way to the divergence from the teacher.
    """

    PARTS = ("train/loss", "train/ce", "train/ib_bound")

    def __init__(
        self, recipe: Recipe, bottleneck: StreamingBottleneck, teacher: Teacher | None = None
    ) -> None:
        self._recipe = recipe
        self._bottleneck = bottleneck
        self._teacher = teacher
        self._warmup_epochs = recipe.ib.warmup * recipe.epochs

    def __call__(
        self, images: Tensor, labels: Tensor, logits: Tensor, features: Tensor, epoch: int
    ) -> tuple[Tensor, Tensor]:
        """The scalar loss of one micro-batch, and its detached parts [3] in ``PARTS`` order.

        labels: [b] integers, or [b, C] shares of mixed images, see `hard_labels`.
        """
        warming_up = epoch < self._warmup_epochs
        smoothing = self._recipe.label_smoothing if warming_up else 0.0
        cross_entropy = F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)
        bound = self._bottleneck(features, hard_labels(labels), images)
        loss = cross_entropy
        if self._teacher:
            distill = self._recipe.distill
            apart = divergence(logits, self._teacher(images), distill.temperature)
            loss = (1 - distill.weight) * cross_entropy + distill.weight * apart
        if not warming_up:
            loss = loss + self._recipe.ib.weight * bound
        return loss, torch.stack([loss.detach(), cross_entropy.detach(), bound.detach()])


def hard_labels(labels: Tensor) -> Tensor:
    """Labels [b] as they are; of shares [b, C] the class with the largest.

    The bound and its Q(a | y) are of images that have one class; a mixed image counts as the one
    that most of it is.
    """
    return labels.argmax(1) if labels.ndim == 2 else labels
