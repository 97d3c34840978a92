"""From a decoded image to the tensor that the model sees, by timm's own transforms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from timm.data import create_transform

Transform = Callable[[Image.Image], torch.Tensor]

_INTERPOLATION = "bicubic"


@dataclass(frozen=True)
class Augment:
    """How training images are varied.

    ``crop_scale`` is the range of the random crop's area over the image's; ``hflip`` and
    ``random_erasing`` are probabilities; ``color_jitter`` is the strength of brightness, contrast
    and saturation changes (timm leaves it out beside ``auto_augment``); ``auto_augment`` is
    timm's notation, e.g. ``rand-m9-mstd0.5-inc1``.
    """

    crop_scale: tuple[float, float] = (0.08, 1.0)
    hflip: float = 0.5
    color_jitter: float = 0.0
    auto_augment: str | None = None
    random_erasing: float = 0.0


def train_transform(
    augment: Augment, image_size: int, mean: Sequence[float], std: Sequence[float]
) -> Transform:
    """RGB image of any size -> augmented, normalised [3, image_size, image_size] float."""
    return create_transform(
        (3, image_size, image_size),
        is_training=True,
        scale=augment.crop_scale,
        hflip=augment.hflip,
        color_jitter=augment.color_jitter or None,
        auto_augment=augment.auto_augment,
        re_prob=augment.random_erasing,
        re_mode="pixel",
        interpolation=_INTERPOLATION,
        mean=tuple(mean),
        std=tuple(std),
    )


def eval_transform(image_size: int, mean: Sequence[float], std: Sequence[float]) -> Transform:
    """RGB image of any size -> its resized, normalised centre [3, image_size, image_size] float.

    From 128 pixels up the centre 7/8 is taken, as ImageNet is evaluated; a smaller image has no
    margin to lose.
    """
    return create_transform(
        (3, image_size, image_size),
        is_training=False,
        crop_pct=0.875 if image_size >= 128 else 1.0,
        interpolation=_INTERPOLATION,
        mean=tuple(mean),
        std=tuple(std),
    )
