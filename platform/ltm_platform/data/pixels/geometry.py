"""Shears and shifts of pixels, uint8 [H, W, 3], as Pillow's bicubic filter makes them.

Along the other axis pixels stay on their grid, so that four neighbours count where Pillow takes
sixteen, and their weights are the same in a whole row or column.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

Pixels = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

_ROWS, _COLUMNS = 0, 1


def shear_x(pixels: Pixels, factor: float, *, fillcolor: Colour, resample: int) -> Pixels:
    shifts = factor * (np.arange(pixels.shape[0]) + 0.5)
    return _shifted(pixels, shifts[:, None], _COLUMNS, fillcolor, resample)


def shear_y(pixels: Pixels, factor: float, *, fillcolor: Colour, resample: int) -> Pixels:
    shifts = factor * (np.arange(pixels.shape[1]) + 0.5)
    return _shifted(pixels, shifts[None], _ROWS, fillcolor, resample)


def translate_x(pixels: Pixels, distance: float, *, fillcolor: Colour, resample: int) -> Pixels:
    """``distance`` in pixels."""
    return _shifted(pixels, np.array([[distance]]), _COLUMNS, fillcolor, resample)


def translate_y(pixels: Pixels, distance: float, *, fillcolor: Colour, resample: int) -> Pixels:
    """``distance`` in pixels."""
    return _shifted(pixels, np.array([[distance]]), _ROWS, fillcolor, resample)


def _shifted(
    pixels: Pixels, shifts: npt.NDArray[np.floating[Any]], axis: int, fill: Colour, resample: int
) -> Pixels:
    """Every pixel becomes what was ``shifts`` [H or 1, W or 1] further along ``axis``, and ``fill``
    where that is outside."""
    assert resample == Image.Resampling.BICUBIC, "the only filter that jobs use"
    height, width, _ = pixels.shape
    length = pixels.shape[axis]
    whole = np.floor(shifts)
    weights = _weights(torch.from_numpy(shifts - whole).float())
    if axis == _ROWS and shifts.size > 1:
        # In memory a row is 3 * width values: those of a column have one weight.
        weights = [weight.repeat_interleave(3, dim=1) for weight in weights]
    near = torch.from_numpy(_near(pixels, whole.astype(np.intp), axis).astype(np.float32))
    step = 1 if axis == _ROWS else 3
    taps = [near.narrow(axis, step * tap, step * length) for tap in range(4)]
    values = taps[0] * weights[0]
    for tap, weight in zip(taps[1:], weights[1:], strict=True):
        values.addcmul_(tap, weight)
    shown = values.clamp_(0, 255).numpy().astype(np.uint8).reshape(pixels.shape)
    first, end = (np.ceil(edge - 0.5 - shifts).astype(np.int32) for edge in (0, length))
    along = np.arange(length, dtype=np.int32)
    along = along[:, None] if axis == _ROWS else along
    outside = np.broadcast_to((along < first) | (along >= end), (height, width))
    shown[outside] = fill
    return shown


def _near(pixels: Pixels, whole: npt.NDArray[np.intp], axis: int) -> Pixels:
    """Pixels moved by whole ones, with one more before and two after them along ``axis``; those of
    the edge go on outside. [H + 3, 3 W] or [H, 3 (W + 3)]."""
    height, width, _ = pixels.shape
    length = pixels.shape[axis]
    along = np.arange(-1, length + 2)
    places = (along[:, None] if axis == _ROWS else along) + whole
    np.clip(places, 0, length - 1, out=places)
    if whole.size == 1:
        moved = np.take(pixels, places.ravel(), axis=axis)
        return moved.reshape(len(moved), -1)
    if axis == _ROWS:
        places = places * width + np.arange(width)
    else:
        places += np.arange(0, height * width, width)[:, None]
    return np.take(pixels.reshape(-1, 3), places, axis=0).reshape(len(places), -1)


def _weights(part: torch.Tensor) -> list[torch.Tensor]:
    """Of the pixel before, the two around and the one after; Pillow's cubic has a = -1 here."""
    square, cube = part**2, part**3
    return [
        2 * square - part - cube,
        1 - 2 * square + cube,
        part + square - cube,
        cube - square,
    ]
