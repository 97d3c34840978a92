"""What jobs of earlier versions mean.

A run stores its job with every default filled in, so a field that is absent there came later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ltm_platform.job.layer import Layer

if TYPE_CHECKING:
    from collections.abc import Mapping

BEFORE: Mapping[str, Any] = {
    "data": {"exif": False, "background": "hidden", "decode": "exact"},
    "engine": {"precision": "fp32", "channels_last": False},
}
"""Values that do what versions without these fields did."""
_CAME_WITH_POOLING = "consistency"  # a field of the recipe
_WITHOUT_SIZES = ("none", "s2vite", "savit", "smaller")


def before(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a job with these values, of the version that stored it, meant without saying so."""
    model, recipe = values.get("model") or {}, values.get("recipe") or {}
    if _CAME_WITH_POOLING in recipe or model.get("method", "ltm") in _WITHOUT_SIZES:
        return dict(BEFORE)
    return {**BEFORE, "model": {"options": {"pool_by_size": False}}}


def completed(values: Mapping[str, Any]) -> dict[str, Any]:
    """A stored job's values with those of the fields that came later."""
    return Layer(before(values)).under(Layer(dict(values))).values
