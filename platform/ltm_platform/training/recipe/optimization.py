"""The recipe: optimizer, learning-rate schedule and loss, from timm and the IB bound."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2, get_optimizer_info
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn

from ltm.errors import FieldError
from ltm_platform.models import method_of
from ltm_platform.training.recipe.consistency import inconsistency
from ltm_platform.training.recipe.distillation import (
    divergence,
    feature_distance,
    token_distance,
)

if TYPE_CHECKING:
    from collections.abc import Collection

    from torch.optim import Optimizer

    from ltm.bottleneck import StreamingBottleneck
    from ltm.methods import Hooks
    from ltm_platform.job import Recipe
    from ltm_platform.training.recipe.distillation import Teacher

_STEPS = 1000  # of an epoch, where shares of the training are asked for
_OF_BACKBONE = "of_backbone"  # key of groups of the optimizer
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
    to the first layer, by timm's order of layers; a method's own parameters have the full one, or
    the part of it that the method says.
    """
    optimizer = create_optimizer_v2(
        model,
        opt=recipe.optimizer,
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        momentum=recipe.momentum,
        layer_decay=recipe.layer_decay,
    )
    for part, rate in method_of(model).rates().items():
        _scale_rate(optimizer, [p for n, p in model.named_parameters() if part in f".{n}."], rate)
    if recipe.backbone.differs:
        own = [p for n, p in model.named_parameters() if not n.startswith("method.")]
        _scale_rate(optimizer, own, recipe.backbone.share, **{_OF_BACKBONE: True})
    return optimizer


def check_method_learns(model: nn.Module) -> None:
    """Check that there are weights for which the network could stand back.

    Raises:
        FieldError: the method has none that are trained.
    """
    if not any(n.startswith("method.") and p.requires_grad for n, p in model.named_parameters()):
        name = method_of(model).name or "none"
        problem = f"is given, but model.method is {name!r}, which has no weights of its own"
        raise FieldError("recipe.backbone", name, "null, or a method that learns", problem)


def _scale_rate(
    optimizer: Optimizer, parameters: Collection[nn.Parameter], rate: float, **more: object
) -> None:
    """Give some parameters groups of their own, whose rate is `rate` times that of the schedule.

    more: what else is known of these groups.
    """
    chosen = {id(parameter) for parameter in parameters}
    for group in list(optimizer.param_groups):
        scaled = [p for p in group["params"] if id(p) in chosen]
        if scaled:
            group["params"] = [p for p in group["params"] if id(p) not in chosen]
            own = {key: value for key, value in group.items() if key != "params"}
            scale = rate * group.get("lr_scale", 1.0)
            optimizer.add_param_group({**own, "params": scaled, "lr_scale": scale, **more})
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]


def is_elementwise(optimizer: str) -> bool:
    """Whether timm's optimizer treats a tensor in pieces as it treats the whole.

    ZeRO stages 1 to 3 give it flat pieces, so one that looks at the shape or a norm of a tensor
    (LAMB, LARS, Muon, the mask of a "cautious" one) would depend on the number of workers.
    """
    info = get_optimizer_info(optimizer)
    cautious = (info.defaults or {}).get("caution", False)
    return not cautious and info.opt_class.__name__ not in _OF_WHOLE_TENSORS


class Schedule(CosineLRScheduler):
    """timm's schedule. Modifications: the backbone may stand still at first, and be constant.

    frozen: steps, from the first, in which groups of the backbone have rate 0.
    constant: the rate of these groups before their scale, at most that of the schedule; None
        follows the schedule.
    """

    def __init__(
        self, optimizer: Optimizer, *, frozen: int, constant: float | None, **options: Any
    ) -> None:
        self._frozen, self._constant = frozen, constant
        super().__init__(optimizer, **options)

    def step_update(self, num_updates: int, metric: float | None = None) -> None:
        super().step_update(num_updates, metric)
        for group in self.optimizer.param_groups:
            if not group.get(_OF_BACKBONE):
                continue
            if num_updates < self._frozen:
                group["lr"] = 0.0
            elif self._constant is not None:
                of_method = group["lr"] / group["lr_scale"]
                group["lr"] = min(self._constant * group["lr_scale"], of_method)


def build_schedule(optimizer: Optimizer, recipe: Recipe, steps: int) -> CosineLRScheduler:
    """Linear warm-up to ``lr``, then half a cosine down to ``min_lr``; ``steps`` updates in all.

    The backbone has a part of that, see `recipe.backbone`.
    """
    warmup = round(recipe.warmup_epochs / recipe.epochs * steps)
    return Schedule(
        optimizer,
        frozen=round(recipe.backbone.frozen_epochs / recipe.epochs * steps),
        constant=recipe.lr if recipe.backbone.constant else None,
        t_initial=max(1, steps - warmup),
        lr_min=recipe.min_lr,
        warmup_t=warmup,
        warmup_lr_init=min(recipe.min_lr, recipe.lr),
        warmup_prefix=True,
        t_in_epochs=False,
    )


def rate_after(recipe: Recipe, epochs: int) -> float:
    """The learning rate of the step after so many epochs, of what is no backbone."""
    optimizer = torch.optim.SGD([torch.zeros(1)], recipe.lr)
    schedule = build_schedule(optimizer, recipe, recipe.epochs * _STEPS)
    schedule.step_update(epochs * _STEPS)
    return float(optimizer.param_groups[0]["lr"])


class Objective:
    """The two phases of LTM's training loss.

    Label-smoothed cross-entropy during the first ``ib.warmup`` share of the epochs, while features
    and centroids settle; then the same + ``ib.weight`` x the IB bound. With a teacher,
    ``distill.weight`` of the cross-entropy gives way to the divergence from the teacher, unless
    ``distill.labels`` says how much of it stays, and ``distill.features`` and ``distill.tokens`` x
    the distances of features and of kept tokens are added. A second pass adds its own
    cross-entropy and ``consistency.weight`` x the distance of the features. Terms that the method
    brings are added as they are.

    parts: what the loss is made of, as metrics; of a teacher and a method only where they are.
    """

    def __init__(
        self,
        recipe: Recipe,
        bottleneck: StreamingBottleneck,
        teacher: Teacher | None = None,
        method: Hooks | None = None,
    ) -> None:
        self._recipe = recipe
        self._bottleneck = bottleneck
        self._teacher = teacher
        self._method = method if method is not None and method.adds_to_loss else None
        self.parts: tuple[str, ...] = ("train/loss", "train/ce", "train/ib_bound")
        self._tokens = recipe.distill.looks_at_tokens
        self.parts += ("train/distill",) * (self._teacher is not None)
        self._features = recipe.distill.looks_at_features
        self.parts += ("train/distill_features",) * self._features
        self.parts += ("train/distill_tokens",) * self._tokens
        self._passes_again = recipe.consistency.below is not None
        self.parts += ("train/ce_again", "train/inconsistency") * self._passes_again
        self.parts += ("train/method_loss",) * (self._method is not None)
        self._warmup_epochs = recipe.ib.warmup * recipe.epochs

    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        logits: Tensor,
        features: Tensor,
        epoch: int,
        *further: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The scalar loss of one micro-batch, and its detached parts in the order of ``parts``.

        labels: [b] integers, or [b, C] shares of mixed images, see `hard_labels`.
        further: final tokens and their places, logits and features of a second pass, as
            `Classifier` gives them where the recipe needs them.
        """
        smoothing = self._recipe.label_smoothing
        cross_entropy = F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)
        bound = self._bottleneck(features, hard_labels(labels), images)
        loss, more = cross_entropy, []
        if self._teacher:
            distill = self._recipe.distill
            if self._tokens:
                tokens, places = further[:2]
                further = further[2:]
            if self._tokens or self._features:
                wanted, teacher_features, teacher_tokens = self._teacher.inside(images)
            else:
                wanted = self._teacher(images)
            apart = divergence(logits, wanted, distill.temperature)
            loss = distill.of_labels * cross_entropy + distill.weight * apart
            more.append(apart)
            if self._features:
                distance = feature_distance(features, teacher_features)
                loss = loss + distill.features * distance
                more.append(distance)
            if self._tokens:
                of_image = teacher_tokens[:, self._teacher.prefix :]
                distance = token_distance(tokens, places, of_image)
                loss = loss + distill.tokens * distance
                more.append(distance)
        if self._passes_again:
            logits_again, features_again = further
            spec = self._recipe.consistency
            again = F.cross_entropy(logits_again.float(), labels, label_smoothing=smoothing)
            apart = inconsistency(logits, features, features_again, labels, spec.confidence)
            loss = loss + again + spec.weight * apart
            more += [again, apart]
        if epoch >= self._warmup_epochs:
            loss = loss + self._recipe.ib.weight * bound
        if self._method is not None:
            own = torch.stack([*self._method.loss_terms().values(), bound.new_zeros(())]).sum()
            loss = loss + own
            more.append(own)
        parts = (loss, cross_entropy, bound, *more)
        return loss, torch.stack([part.detach() for part in parts])

    def ib_gradient_ratio(
        self, classifier: nn.Module, features: Tensor, labels: Tensor, images: Tensor
    ) -> Tensor:
        """||ib.weight dIBB/dF|| : ||dCE/dF||, with the L2 norms of a micro-batch: a scalar.

        The share of what features learn that the bound has, also before the epoch in which it
        begins. Changes nothing of what is trained.

        features: F [b, D], which the classifier makes logits of. labels: as of `__call__`.
        """
        dtype = next(classifier.parameters()).dtype
        features = features.detach().to(dtype).requires_grad_()
        smoothing = self._recipe.label_smoothing
        logits = classifier(features).float()
        cross_entropy = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        collects = self._bottleneck.training
        self._bottleneck.eval()
        bound = self._bottleneck(features, hard_labels(labels), images)
        self._bottleneck.train(collects)
        norms = [
            torch.autograd.grad(part, features)[0].float().norm() for part in (bound, cross_entropy)
        ]
        return self._recipe.ib.weight * norms[0] / norms[1]


def hard_labels(labels: Tensor) -> Tensor:
    """Labels [b] as they are; of shares [b, C] the class with the largest.

    The bound and its Q(a | y) are of images that have one class; a mixed image counts as the one
    that most of it is.
    """
    return labels.argmax(1) if labels.ndim == 2 else labels
