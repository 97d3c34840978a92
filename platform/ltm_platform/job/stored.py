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


def completed(values: Mapping[str, Any]) -> dict[str, Any]:
    """A stored job's values with those of the fields that came later."""
    before = dict(BEFORE)
    model, recipe = values.get("model") or {}, values.get("recipe") or {}
    if _CAME_WITH_POOLING not in recipe and model.get("method", "ltm") not in _WITHOUT_SIZES:
        before["model"] = {"options": {"pool_by_size": False}}
    return Layer(before).under(Layer(dict(values))).values
