"""From a decoded image to the pixels that the model sees, by timm's own transforms.

timm crops and resizes with Pillow. By default the same crop is resized by torch's vectorised
kernel instead, in a third of the time. Of the 8-bit values 98 in 100 are then those of Pillow and
nearly all others differ by one; either is equally near to exact bicubic interpolation (about 0.27
of a level on photographs). ``resize="pillow"`` gives timm's values bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from torchvision.transforms import Compose, InterpolationMode
from torchvision.transforms.v2 import functional as F

from ltm_platform.compat.timm import allow_posterize_to_black
from ltm_platform.data.pixels.on_device import ToNetwork

if TYPE_CHECKING:
    from timm.data.random_erasing import RandomErasing
    from timm.data.transforms import RandomResizedCropAndInterpolation
    from torchvision.transforms import Resize

Transform = Callable[[Image.Image], torch.Tensor]
Backend = Literal["torch", "pillow"]

INTERPOLATION = "bicubic"


@dataclass(frozen=True)
class Augmentation:
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


def timm_stages(
    augment: Augmentation, image_size: int, mean: Sequence[float]
) -> tuple[list[Any], list[Any], list[Any]]:
    """timm's own steps of training: a crop and perhaps a flip; changes of colour and shape; to a
    tensor, normalised, and perhaps erased in a part."""
    first, second, last = create_transform(
        (3, image_size, image_size),
        is_training=True,
        scale=augment.crop_scale,
        hflip=augment.hflip,
        color_jitter=augment.color_jitter or None,
        auto_augment=augment.auto_augment,
        re_prob=augment.random_erasing,
        re_mode="pixel",
        interpolation=INTERPOLATION,
        mean=tuple(mean),
        separate=True,
    )
    return first.transforms, second.transforms, last.transforms


def train_stages(
    augment: Augmentation, image_size: int, mean: Sequence[float], *, resize: Backend = "torch"
) -> tuple[Transform, RandomErasing | None]:
    """RGB image of any size -> augmented [3, image_size, image_size] uint8, and what erases
    a part of it once it is normalised. Where a shear leaves nothing, ``mean`` is."""
    (crop, *flip), colour, (_, _, *erase) = timm_stages(augment, image_size, mean)
    for step in colour:
        allow_posterize_to_black(step)
    if resize == "pillow":
        steps = [crop, *flip, *colour]
    else:  # timm's changes of colour and shape are written for Pillow
        steps = [_Crop(crop), *([_to_pillow] if colour else []), *flip, *colour]
    return Compose([*steps, _to_pixels]), erase[0] if erase else None


def eval_pixels(image_size: int, *, resize: Backend = "torch") -> Transform:
    """RGB image of any size -> its resized centre [3, image_size, image_size] uint8.

    From 128 pixels up the centre 7/8 is taken, as ImageNet is evaluated; a smaller image has no
    margin to lose.
    """
    whole = create_transform(
        (3, image_size, image_size),
        is_training=False,
        crop_pct=_crop_share(image_size),
        interpolation=INTERPOLATION,
    )
    scale, centre, *_ = whole.transforms
    return Compose([scale if resize == "pillow" else _Resize(scale), centre, _to_pixels])


def eval_transform(
    image_size: int, mean: Sequence[float], std: Sequence[float], *, resize: Backend = "torch"
) -> Transform:
    """RGB image of any size -> the normalised [3, image_size, image_size] float of `eval_pixels`"""
    return Compose([eval_pixels(image_size, resize=resize), _Normalise(mean, std)])


def eval_resize(image_size: int) -> int:
    """Pixels of the shorter side before `eval_transform` takes the centre."""
    return math.floor(image_size / _crop_share(image_size))


def _crop_share(image_size: int) -> float:
    return 0.875 if image_size >= 128 else 1.0


@dataclass(frozen=True)
class _Crop:
    """timm's random crop, drawn as timm draws it and resized by torch."""

    like: RandomResizedCropAndInterpolation

    def __call__(self, image: Image.Image) -> torch.Tensor:
        top, left, height, width = self.like.get_params(image, self.like.scale, self.like.ratio)
        if height and width:  # of a few pixels timm's crop may be rounded to none
            image = image.crop((left, top, left + width, top + height))
        return _bicubic(image, list(self.like.size))


@dataclass(frozen=True)
class _Resize:
    """The shorter side to the size of ``like``."""

    like: Resize

    def __call__(self, image: Image.Image) -> torch.Tensor:
        return _bicubic(image, [self.like.size])


def _bicubic(image: Image.Image, size: list[int]) -> torch.Tensor:
    """[3, H, W] uint8; one number for ``size`` is the shorter side."""
    return F.resize(_to_pixels(image), size, interpolation=InterpolationMode.BICUBIC)


class _Normalise:
    """Pixels [3, H, W] -> (pixels / 255 - mean) / std, [3, H, W] float."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self._to_network = ToNetwork(mean, std)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        return self._to_network(pixels[None])[0]


def _to_pixels(image: Image.Image | torch.Tensor) -> torch.Tensor:
    """[3, H, W] uint8, the channels next to each other in memory."""
    if isinstance(image, torch.Tensor):
        return image
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _to_pillow(pixels: torch.Tensor) -> Image.Image:
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())
