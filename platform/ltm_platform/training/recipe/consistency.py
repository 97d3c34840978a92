"""Consistency between two reductions of the same images (MCTF, arXiv 2403.10030, section 3.4)."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from ltm.errors import FieldError
from ltm_platform.models import method_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ltm_platform.job import JobSpec

_BELOW = "recipe.consistency.below"


def removals(below: int, seed: int, step: int) -> int:
    """How many tokens leave each block in the second pass of a step: in [0, below), the same on all
    ranks and after a resume."""
    return random.Random(f"{seed}:{step}").randrange(below)


def inconsistency(
    logits: Tensor, features: Tensor, again: Tensor, labels: Tensor, confidence: float
) -> Tensor:
    """Mean squared difference of features [b, D] to those of the second pass, which stand still.

    Of images whose label has a probability above `confidence`, of a mixed image its classes
    together; 0 where there is none. logits: [b, C]. labels: [b], or [b, C] shares.
    """
    probability = logits.detach().float().softmax(-1)
    if labels.ndim == 2:
        of_label = (probability * (labels > 0)).sum(1)
    else:
        of_label = probability.gather(1, labels[:, None]).squeeze(1)
    sure = (of_label > confidence).float()
    square = (features.float() - again.detach().float()).square().mean(1)
    return (square * sure).sum() / sure.sum().clamp_min(1)


def check_consistency(model: Any, job: JobSpec) -> None:
    """Check that the network can take a second pass in which another number of tokens leaves.

    Raises:
        FieldError: it cannot.
    """
    below = job.recipe.consistency.below
    assert below is not None
    engine, name = job.engine, method_of(model).name or "none"
    allowed = "null"
    for is_so, field in (
        (engine.zero_stage == 3, "engine.zero_stage is 3"),
        (engine.compile, "engine.compile is true"),
        (engine.grad_checkpointing, "engine.grad_checkpointing is true"),
        (job.model.elastic is not None, "model.elastic is given"),
    ):
        if is_so:
            problem = f"is {below}, but {field}, where a network computes one thing at a time"
            raise FieldError(_BELOW, below, allowed, problem)
    if not hasattr(model, "reduced_by"):
        problem = f"is {below}, but model.method is {name!r}, which reduces no tokens"
        raise FieldError(_BELOW, below, allowed, problem)
    shapes = _shapes(model)
    try:
        for r in (0, below - 1):
            with model.reduced_by(r):
                changed = _shapes(model) != shapes
    except FieldError as error:
        raise FieldError(_BELOW, below, allowed, f"is {below}, but {error}") from None
    if changed or method_of(model).shaped_by_plan:
        problem = f"is {below}, but the weights of model.method {name!r} are for one plan"
        raise FieldError(_BELOW, below, allowed, problem)


def _shapes(model: Any) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in model.named_parameters()}
