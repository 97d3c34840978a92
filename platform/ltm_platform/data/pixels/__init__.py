"""From an encoded image to the uint8 pixels of a sample, and from those to what a network takes.

`fast` and `exact` run in the decode processes, `on_device` where the network is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ltm_platform.data.pixels.sample import Pipeline
    from ltm_platform.data.transforms import Augmentation

Decode = Literal["fast", "exact"]


def train_pipeline(
    augment: Augmentation, size: int, mean: Sequence[float], decode: Decode
) -> Pipeline:
    """What ``data.decode`` of a job names, for networks of ``size`` x ``size`` pixels.

    mean: of the channels, from 0 to 1: the colour where a shear leaves nothing.
    """
    if decode == "fast":
        from ltm_platform.data.pixels.fast import FastTraining

        return FastTraining(augment, size, mean)
    from ltm_platform.data.pixels.exact import ExactTraining

    return ExactTraining(augment, size, mean)
