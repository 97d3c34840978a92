"""A training made shorter than its warm-up: the warm-up keeps its share of the epochs."""

from __future__ import annotations

from typing import Any, TypeGuard

from ltm_platform.job.layer import Layer
from ltm_platform.job.recipe import Recipe

EPOCHS, WARMUP = "recipe.epochs", "recipe.warmup_epochs"


def laid_over(low: Layer, top: Layer) -> Layer:
    """`Layer.under`; where ``top`` leaves fewer epochs than the warm-up takes that nobody typed,
    this is cut to its share."""
    merged = low.under(top)
    if EPOCHS not in top.origins or WARMUP in top.origins or merged.is_override(WARMUP):
        return merged
    warmup, before = merged.get(WARMUP), low.get(EPOCHS)
    if before is None:
        before = Recipe.model_fields["epochs"].default
    cut = shortened(warmup, before, merged.get(EPOCHS))
    if cut is None:
        return merged
    merged = merged.under(Layer({"recipe": {"warmup_epochs": cut}}))
    merged.shortened[WARMUP] = warmup
    return merged


def shortened(warmup: Any, before: Any, epochs: Any) -> float | None:
    """A warm-up of so many epochs in ``before`` in a training of ``epochs``; None: it fits, or
    nothing would."""
    if not (_is_number(warmup) and _is_number(before) and _is_number(epochs)):
        return None
    if not 0 < epochs < warmup <= before:
        return None
    return float(f"{warmup / before * epochs:.4g}")


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
