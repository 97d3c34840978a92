"""Image operations of timm's policies on arrays: each equal to Pillow's within a level.

Pixels are uint8 [H, W, 3], contiguous. An operation may change them in place; what it returns
counts. Arguments are those of timm's functions of the same names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ltm_platform.data.pixels.geometry import shear_x, shear_y, translate_x, translate_y

Pixels = npt.NDArray[np.uint8]
Operation = Callable[..., Pixels]

_LEVELS = np.arange(256, dtype=np.float32)


def auto_contrast(pixels: Pixels, **_: Any) -> Pixels:
    for channel in range(3):
        plane = np.ascontiguousarray(pixels[..., channel])
        low, high = int(plane.min()), int(plane.max())
        if low < high:
            scale = 255.0 / (high - low)
            table = np.clip(np.arange(256) * scale - low * scale, 0, 255)
            pixels[..., channel] = _looked_up(plane, table)
    return pixels


def equalize(pixels: Pixels, **_: Any) -> Pixels:
    for channel in range(3):
        plane = np.ascontiguousarray(pixels[..., channel])
        counts = np.array(Image.fromarray(plane).histogram())
        present = counts[counts > 0]
        step = int(present[:-1].sum()) // 255
        if step:
            before = np.cumsum(counts) - counts
            table = np.minimum((before + step // 2) // step, 255)
            pixels[..., channel] = _looked_up(plane, table)
    return pixels


def invert(pixels: Pixels, **_: Any) -> Pixels:
    return np.invert(pixels, out=pixels)


def posterize(pixels: Pixels, bits_to_keep: int, **_: Any) -> Pixels:
    """No bits to keep is black, as Pillow had it until version 13."""
    if bits_to_keep < 8:
        np.bitwise_and(pixels, 256 - (1 << (8 - max(bits_to_keep, 0))), out=pixels)
    return pixels


def solarize(pixels: Pixels, thresh: int, **_: Any) -> Pixels:
    bright = np.greater_equal(pixels, thresh).view(np.uint8)
    return np.bitwise_xor(pixels, np.negative(bright, out=bright), out=pixels)


def solarize_add(pixels: Pixels, add: int, thresh: int = 128, **_: Any) -> Pixels:
    raised = np.minimum(_LEVELS + add, 255)
    return _looked_up(pixels, np.where(thresh > _LEVELS, raised, _LEVELS))


def brightness(pixels: Pixels, factor: float, **_: Any) -> Pixels:
    return _looked_up(pixels, _blend(np.float32(0), _LEVELS, factor))


def contrast(pixels: Pixels, factor: float, **_: Any) -> Pixels:
    mean = np.float32(int(np.mean(_grey(pixels)) + 0.5))
    return _looked_up(pixels, _blend(mean, _LEVELS, factor))


def color(pixels: Pixels, factor: float, **_: Any) -> Pixels:
    grey = _grey(pixels).astype(np.float32).repeat(3).reshape(pixels.shape)
    return _blend(grey, pixels, factor).astype(np.uint8)


def desaturate(pixels: Pixels, factor: float, **_: Any) -> Pixels:
    return color(pixels, min(1.0, max(0.0, 1.0 - factor)))


def sharpness(pixels: Pixels, factor: float, **_: Any) -> Pixels:
    """Blends with the mean of 3 x 3 pixels in which the middle counts 5 times, inside the edge."""
    height, width, _ = pixels.shape
    lines = pixels.reshape(height, 3 * width)
    wide = lines.astype(np.uint16)
    rows = wide[:-2] + wide[1:-1] + wide[2:]
    total = rows[:, :-6] + rows[:, 3:-3] + rows[:, 6:] + 4 * wide[1:-1, 3:-3]
    smooth = ((total + 6) // 13).astype(np.float32)
    sharp = lines.copy()
    sharp[1:-1, 3:-3] = _blend(smooth, lines[1:-1, 3:-3], factor)
    return sharp.reshape(pixels.shape)


def translate_x_rel(pixels: Pixels, pct: float, **more: Any) -> Pixels:
    return translate_x(pixels, pct * pixels.shape[1], **more)


def translate_y_rel(pixels: Pixels, pct: float, **more: Any) -> Pixels:
    return translate_y(pixels, pct * pixels.shape[0], **more)


OPERATIONS: dict[str, Operation] = {
    "auto_contrast": auto_contrast,
    "brightness": brightness,
    "color": color,
    "contrast": contrast,
    "desaturate": desaturate,
    "equalize": equalize,
    "invert": invert,
    "posterize": posterize,
    "sharpness": sharpness,
    "shear_x": shear_x,
    "shear_y": shear_y,
    "solarize": solarize,
    "solarize_add": solarize_add,
    "translate_x_abs": translate_x,
    "translate_y_abs": translate_y,
    "translate_x_rel": translate_x_rel,
    "translate_y_rel": translate_y_rel,
}
"""By the names of timm's functions. What is not here is no faster on arrays."""


@dataclass(frozen=True)
class ByPillow:
    """An operation on Pillow's images as one on arrays."""

    operation: Callable[..., Image.Image]

    def __call__(self, pixels: Pixels, *args: Any, **more: Any) -> Pixels:
        return np.array(self.operation(Image.fromarray(pixels), *args, **more))


def _looked_up(pixels: Pixels, table: npt.NDArray[Any]) -> Pixels:
    """Every level becomes that of the table, [256], from 0 to 255."""
    seen = pixels.tobytes().translate(table.astype(np.uint8).tobytes())
    return np.frombuffer(bytearray(seen), np.uint8).reshape(pixels.shape)


def _grey(pixels: Pixels) -> npt.NDArray[np.uint32]:
    """Luma [H, W] by ITU-R 601, as Pillow rounds it."""
    red, green, blue = (pixels[..., channel].astype(np.uint32) for channel in range(3))
    luma: npt.NDArray[np.uint32] = 19595 * red + 38470 * green + 7471 * blue + 0x8000
    return np.right_shift(luma, np.uint32(16))


def _blend(first: Any, second: Any, share: float) -> npt.NDArray[np.float32]:
    """``first`` + share * (``second`` - ``first``), from 0 to 255."""
    values = np.subtract(second, first, dtype=np.float32)
    values *= np.float32(share)
    values += first
    return np.clip(values, 0, 255, out=values)
