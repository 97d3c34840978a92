"""Shears and shifts of pixels, uint8 [H, W, 3], as Pillow's bicubic filter makes them.

Along the other axis pixels stay on their grid, so that four neighbours count where Pillow takes
sixteen, and their weights are the same in a whole row or column.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

Pixels = npt.NDArray[np.uint8]
Shifts = npt.NDArray[np.floating[Any]]
Colour = tuple[int, int, int]

_BEFORE, _AFTER = 1, 2
"""Neighbours of a place between two pixels, besides the one before it."""


def shear_x(pixels: Pixels, factor: float, *, fillcolor: Colour, resample: int) -> Pixels:
    return _along_rows(pixels, factor * (np.arange(pixels.shape[0]) + 0.5), fillcolor, resample)


def shear_y(pixels: Pixels, factor: float, *, fillcolor: Colour, resample: int) -> Pixels:
    return _along_columns(pixels, factor * (np.arange(pixels.shape[1]) + 0.5), fillcolor, resample)


def translate_x(pixels: Pixels, distance: float, *, fillcolor: Colour, resample: int) -> Pixels:
    """``distance`` in pixels."""
    return _along_rows(pixels, np.full(pixels.shape[0], float(distance)), fillcolor, resample)


def translate_y(pixels: Pixels, distance: float, *, fillcolor: Colour, resample: int) -> Pixels:
    """``distance`` in pixels."""
    return _along_columns(pixels, np.full(pixels.shape[1], float(distance)), fillcolor, resample)


def _along_rows(pixels: Pixels, shifts: Shifts, fill: Colour, resample: int) -> Pixels:
    assert resample == Image.Resampling.BICUBIC, "the only filter that jobs use"
    height, width, channels = pixels.shape
    colours = np.tile(np.array(fill, np.uint8), width)
    lines = pixels.reshape(height, channels * width)
    return _shifted(lines, shifts, channels, colours).reshape(pixels.shape)


def _along_columns(pixels: Pixels, shifts: Shifts, fill: Colour, resample: int) -> Pixels:
    assert resample == Image.Resampling.BICUBIC, "the only filter that jobs use"
    height, width, channels = pixels.shape
    colours = np.repeat(np.array(fill, np.uint8), width)[:, None]
    lines = np.ascontiguousarray(pixels.transpose(2, 1, 0)).reshape(-1, height)
    shown = _shifted(lines, np.tile(shifts, channels), 1, colours)
    return np.ascontiguousarray(shown.reshape(channels, width, height).transpose(2, 1, 0))


def _shifted(lines: Pixels, shifts: Shifts, step: int, fill: Pixels) -> Pixels:
    """Every pixel of [n, length * step] becomes what was ``shifts`` [n] pixels further along its
    line, and ``fill`` where that is outside.

    step: values a pixel.
    """
    count, width = lines.shape
    length = width // step
    whole = np.floor(shifts)
    weights = _weights((shifts - whole).astype(np.float32)[:, None])
    places = np.clip(whole, -length - _AFTER, length + _AFTER).astype(np.intp)
    near = torch.from_numpy(_near(lines.reshape(count, length, step), places)).float()
    values = near[:, :width] * weights[0]
    for tap, weight in enumerate(weights[1:], 1):
        values.addcmul_(near[:, step * tap : step * tap + width], weight)
    # torch has no quick way from floats to uint8.
    shown = values.clamp_(0, 255).numpy().astype(np.uint8)
    along = np.repeat(np.arange(length, dtype=np.int16), step)
    first, end = (
        np.clip(np.ceil(edge - 0.5 - shifts), -1, length).astype(np.int16)[:, None]
        for edge in (0, length)
    )
    np.copyto(shown, fill, where=(along < first) | (along >= end))
    return shown


def _near(lines: Pixels, places: npt.NDArray[np.intp]) -> Pixels:
    """Lines [n, length, step] that begin at the pixels before ``places`` [n] and are three longer:
    [n, (length + 3) * step]. Near the ends the last pixel goes on; further out is anything."""
    count, length, step = lines.shape
    more = _BEFORE + _AFTER
    before = max(_BEFORE - int(places.min()), more)
    after = max(_AFTER + int(places.max()), more)
    longer = np.empty((count, before + length + after, step), np.uint8)
    end = before + length
    longer[:, before:end] = lines
    longer[:, before - more : before] = lines[:, :1]
    longer[:, end : end + more] = lines[:, -1:]
    starts = np.arange(count) * longer.shape[1] + before - _BEFORE + places
    return sliding_window_view(longer.reshape(-1), (length + more) * step)[starts * step]


def _weights(part: npt.NDArray[np.float32]) -> list[torch.Tensor]:
    """Of the pixel before, the two around and the one after; Pillow's cubic has a = -1 here."""
    square, cube = part**2, part**3
    weights = (
        2 * square - part - cube,
        1 - 2 * square + cube,
        part + square - cube,
        cube - square,
    )
    return [torch.from_numpy(weight) for weight in weights]
