"""A training made shorter than one of its phases: the phase keeps its share of the epochs."""

from __future__ import annotations

from typing import Any, TypeGuard

from ltm_platform.job.layer import Layer
from ltm_platform.job.recipe import Recipe

EPOCHS, WARMUP = "recipe.epochs", "recipe.warmup_epochs"
FROZEN = "recipe.backbone.frozen_epochs"
PHASES = (WARMUP, FROZEN)


def laid_over(low: Layer, top: Layer) -> Layer:
    """`Layer.under`; where ``top`` leaves fewer epochs than a phase takes that nobody typed, this
    is cut to its share."""
    merged = low.under(top)
    if EPOCHS not in top.origins:
        return merged
    before = low.get(EPOCHS)
    if before is None:
        before = Recipe.model_fields["epochs"].default
    for phase in PHASES:
        if phase in top.origins or merged.is_override(phase):
            continue
        was = merged.get(phase)
        cut = shortened(phase, was, before, merged.get(EPOCHS))
        if cut is not None:
            merged = merged.under(Layer(_nested(phase, cut)))
            merged.shortened[phase] = was
    return merged


def shortened(phase: str, lasts: Any, before: Any, epochs: Any) -> float | None:
    """How long a phase of so many epochs in ``before`` lasts in a training of ``epochs``; None: it
    fits, or nothing would. A warm-up may take all of them."""
    if not (_is_number(lasts) and _is_number(before) and _is_number(epochs)):
        return None
    fits = lasts < epochs or (phase == WARMUP and lasts == epochs)
    if fits or epochs <= 0 or lasts > before:
        return None
    return float(f"{lasts / before * epochs:.4g}")


def _nested(key: str, value: float) -> dict[str, Any]:
    nested: Any = value
    for part in reversed(key.split(".")):
        nested = {part: nested}
    return dict(nested)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
