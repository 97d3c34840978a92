"""A layer over others: what it gives, and what that changes below it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ltm_platform.job.layer import Layer
from ltm_platform.job.recipe import Recipe
from ltm_platform.job.sections import BUDGETS
from ltm_platform.job.shorten import EPOCHS, PHASES, shortened

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ALTERNATIVES: tuple[Mapping[str, Any], ...] = (
    dict.fromkeys(BUDGETS),
    {"model.pretrained": False, "model.checkpoint": None},
)
"""Fields of which a job has one, each with the value that clears it."""


def laid_over(low: Layer, top: Layer) -> Layer:
    """`Layer.under`; what ``top`` leaves no room for below it gives way, unless it was typed.

    One of `ALTERNATIVES` takes the place of another, and phases that last longer than the epochs
    are cut to their share of them.
    """
    merged = low.under(top)
    for key in _replaced(merged, top):
        merged = merged.under(Layer(_nested(key, _CLEARED[key])))
    return _with_short_phases(merged, low, top)


_CLEARED = {key: value for fields in ALTERNATIVES for key, value in fields.items()}


def _replaced(merged: Layer, top: Layer) -> Iterator[str]:
    for fields in ALTERNATIVES:
        if all(top.get(key) in (None, cleared) for key, cleared in fields.items()):
            continue
        for key, cleared in fields.items():
            given = merged.get(key) not in (None, cleared)
            if given and top.get(key) is None and not merged.is_override(key):
                yield key


def _with_short_phases(merged: Layer, low: Layer, top: Layer) -> Layer:
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


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)
