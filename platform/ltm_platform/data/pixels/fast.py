"""Training samples for less CPU time than timm's: what ``data.decode: fast`` stands for.

Crops, operations and their strengths are drawn by timm's own code, so that they are those of
`exact` for the same key. Pixels are near to timm's: an ordinary JPEG is decoded with the quicker
of libjpeg's filters, scaled where the crop allows it, and no further than the crop; anything else
is decoded by Pillow.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from timm.data.auto_augment import AutoAugment, RandAugment
from torchvision.transforms import ColorJitter

from ltm_platform.compat.timm import allow_posterize_to_black, replace_operations
from ltm_platform.compat.torch import resize_bicubic
from ltm_platform.data.decode import decoded, seed_everything
from ltm_platform.data.pixels.jpeg import Box, open_jpeg
from ltm_platform.data.pixels.on_device import NOISE_VALUES
from ltm_platform.data.pixels.operations import OPERATIONS, ByPillow, brightness, color, contrast
from ltm_platform.data.pixels.sample import Change, Erasure
from ltm_platform.data.transforms import timm_stages

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt
    from PIL import Image
    from torch import Tensor

    from ltm_platform.compat.image_loader.pixels import PixelRule
    from ltm_platform.data.transforms import Augmentation

    Pixels = npt.NDArray[np.uint8]

_AREA, _LOG_ASPECT, _ATTEMPTS = (0.02, 1 / 3), (math.log(0.3), math.log(1 / 0.3)), 10


class FastTraining:
    """A random crop of [size, size], augmented; flips and noise are left to the device."""

    def __init__(self, augment: Augmentation, size: int, mean: Sequence[float]) -> None:
        self.size = size
        self._flip, self._erase = augment.hflip, augment.random_erasing
        (self._crop, *_), colours, _ = timm_stages(augment, size, mean)
        self._colours = [_on_arrays(step) for step in colours]

    def __call__(
        self, data: bytes, rule: PixelRule, key: tuple[int, int, int], out: Tensor
    ) -> Change:
        seed_everything(*key)
        self._show_crop(data, rule, out)
        flip = self._flip > 0 and bool(torch.rand(1) < self._flip)
        if self._colours:
            self._augment(out.numpy())
        return Change(flip, _erasure(self.size, self._erase))

    def _augment(self, pixels: Pixels) -> None:
        changed = pixels
        for step in self._colours:
            changed = step(changed)
        if changed is not pixels:
            pixels[...] = changed

    def _show_crop(self, data: bytes, rule: PixelRule, out: Tensor) -> None:
        jpeg = open_jpeg(data, rule)
        if jpeg is not None:
            box = self._box(jpeg.size)
            try:
                pixels = jpeg.crop(box, self.size)
            except ValueError:  # Pillow knows best what can be made of it
                pixels = _part(decoded(data, rule), box)
        else:
            image = decoded(data, rule)
            pixels = _part(image, self._box(image.size))
        resize_bicubic(torch.from_numpy(np.ascontiguousarray(pixels)), out)

    def _box(self, size: tuple[int, int]) -> Box:
        width, height = size
        like = torch.empty(1).expand(1, height, width)  # all that timm asks for is its shape
        box = Box(*self._crop.get_params(like, self._crop.scale, self._crop.ratio))
        # Of a few pixels timm's crop may be rounded to none.
        return box if box.height and box.width else Box(0, 0, height, width)


def _part(image: Image.Image, box: Box) -> Pixels:
    top, left, height, width = box
    return np.array(image.crop((left, top, left + width, top + height)))


def _on_arrays(step: Any) -> Callable[[Pixels], Pixels]:
    """A step of timm's that changes colours or shapes, for arrays."""
    if isinstance(step, RandAugment | AutoAugment):
        replace_operations(step, OPERATIONS, ByPillow)
        return step
    if isinstance(step, ColorJitter) and step.hue is None:
        return _Jitter(step)
    allow_posterize_to_black(step)
    return ByPillow(step)


@dataclass(frozen=True)
class _Jitter:
    like: ColorJitter

    def __call__(self, pixels: Pixels) -> Pixels:
        its = self.like
        order, *factors, _ = its.get_params(its.brightness, its.contrast, its.saturation, its.hue)
        for number in order.tolist():
            if number < len(factors) and factors[number] is not None:
                pixels = (brightness, contrast, color)[number](pixels, factors[number])
        return pixels


def _erasure(size: int, probability: float) -> Erasure | None:
    """Drawn as timm's `RandomErasing` draws it; of its noise only the place in the table."""
    if not probability or random.random() > probability:
        return None
    for _ in range(_ATTEMPTS):
        area = random.uniform(*_AREA) * size * size
        aspect = math.exp(random.uniform(*_LOG_ASPECT))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if width < size and height < size:
            top, left = random.randint(0, size - height), random.randint(0, size - width)
            return Erasure(top, left, height, width, random.randrange(NOISE_VALUES))
    return None
