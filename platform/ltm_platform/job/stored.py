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


def completed(values: Mapping[str, Any]) -> dict[str, Any]:
    """A stored job's values with those of the fields that came later."""
    return Layer(dict(BEFORE)).under(Layer(dict(values))).values
