"""The network as it is trained: what the job file says of it, all in place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ltm.bottleneck import StreamingBottleneck
from ltm.errors import FieldError
from ltm_platform.models import (
    create_model,
    create_teacher,
    freeze,
    freeze_backbone,
    input_pixels,
    load_start,
    method_of,
)
from ltm_platform.training.engine.device import own_precision
from ltm_platform.training.engine.sync_bn import (
    RankGroup,
    has_batch_norm,
    strange_norm,
    synchronise,
)
from ltm_platform.training.recipe.consistency import check_consistency
from ltm_platform.training.recipe.distillation import (
    Teacher,
    check_keeps_tokens,
    check_same_features,
    check_same_tokens,
)
from ltm_platform.training.recipe.optimization import Objective, check_method_learns

if TYPE_CHECKING:
    import torch

    from ltm_platform.job import JobSpec


@dataclass(frozen=True, slots=True)
class Network:
    """A network to train."""

    model: Any
    """A timm model."""
    new_classifier: bool
    """Weights were loaded, but those of the classifier were for another number of classes."""


def build_network(job: JobSpec, num_classes: int, *, norm_group: int = 1) -> Network:
    """The job's model with its first weights, its frozen parts, synced and checkpointed.

    norm_group: neighbouring ranks that share batch norms' statistics, see `BatchPlan`. Collective
        where it is not 1.

    Raises:
        FieldError: something of it does not fit.
    """
    model = create_model(job, num_classes)
    new_classifier = load_start(model, job)
    freeze(model, job.recipe.freeze)
    if job.recipe.distill.looks_at_tokens:
        check_keeps_tokens(model, job.recipe.distill.tokens)
    if job.recipe.consistency.below is not None:
        check_consistency(model, job)
    if job.recipe.backbone.differs:
        check_method_learns(model)
    never_moves = job.recipe.backbone.frozen_epochs >= job.recipe.epochs
    if method_of(model).freezes_backbone or never_moves:
        freeze_backbone(model)
    if job.recipe.sync_bn:
        synchronise(model, RankGroup())
    elif norm_group > 1 and has_batch_norm(model) and not strange_norm(model):
        synchronise(model, RankGroup(norm_group))
    if job.engine.grad_checkpointing:
        try:
            model.set_grad_checkpointing()
        except AssertionError:  # timm's word for a network that does not know it
            name = job.model.backbone
            problem = f"is {name!r}, which cannot train with engine.grad_checkpointing"
            raise FieldError("backbone", name, problem=problem) from None
    return Network(model, new_classifier)


def build_objective(
    job: JobSpec, model: Any, num_classes: int, device: torch.device
) -> tuple[Objective, StreamingBottleneck]:
    """The loss, with its teacher if it has one, and the statistics that it needs."""
    bottleneck = StreamingBottleneck(
        num_classes,
        feature_dim=model.head_hidden_size,
        clusters=job.recipe.ib.clusters,
        beta=job.recipe.ib.beta,
    ).to(device)
    teacher = None
    if job.recipe.distill.teacher:
        precision = own_precision(job, device)
        network = create_teacher(job, num_classes)
        if job.recipe.distill.looks_at_tokens:
            check_same_tokens(model, network, job.recipe.distill.tokens)
        if job.recipe.distill.looks_at_features:
            check_same_features(model, network, job.recipe.distill.features)
        teacher = Teacher(network, input_pixels(model), precision).to(device)
    return Objective(job.recipe, bottleneck, teacher, method_of(model)), bottleneck
