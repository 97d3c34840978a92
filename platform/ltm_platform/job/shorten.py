"""A training made shorter than one of its phases: the phase keeps its share of the epochs."""

from __future__ import annotations

from typing import Any, TypeGuard

EPOCHS, WARMUP = "recipe.epochs", "recipe.warmup_epochs"
FROZEN = "recipe.backbone.frozen_epochs"
PHASES = (WARMUP, FROZEN)


def shortened(phase: str, lasts: Any, before: Any, epochs: Any) -> float | None:
    """How long a phase of so many epochs in ``before`` lasts in a training of ``epochs``; None: it
    fits, or nothing would. A warm-up may take all of them."""
    if not (_is_number(lasts) and _is_number(before) and _is_number(epochs)):
        return None
    fits = lasts < epochs or (phase == WARMUP and lasts == epochs)
    if fits or epochs <= 0 or lasts > before:
        return None
    return float(f"{lasts / before * epochs:.4g}")


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
