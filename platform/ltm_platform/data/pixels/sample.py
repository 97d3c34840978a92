"""What a pipeline makes of one image, and what it leaves to the device."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ltm_platform.compat.image_loader.pixels import PixelRule


class UndecodableError(Exception):
    """The bytes are no image, or it is damaged; the message says why."""


class Erasure(NamedTuple):
    """A rectangle, in pixels, that noise takes the place of.

    noise: the values [3, height, width], normal; or where they begin in the table of noise.
    """

    top: int
    left: int
    height: int
    width: int
    noise: int | Tensor


class Change(NamedTuple):
    """What is left to do to one sample: flip it from left to right, erase a part of it then."""

    flip: bool = False
    erasure: Erasure | None = None


class Changes(NamedTuple):
    """What is left to do to the samples of a batch; small, and on the host.

    flipped: [b] bool.
    erased: [e, 6] row, top, left, height, width, and where the noise of this rectangle begins.
    noise: float [n] that ``erased`` counts in; None is the table that every process has.
    """

    flipped: npt.NDArray[np.bool_]
    erased: npt.NDArray[np.int64]
    noise: Tensor | None = None


class Pipeline(Protocol):
    """From an encoded image to the pixels of a sample.

    size: their height and width.
    """

    size: int

    def __call__(
        self, data: bytes, rule: PixelRule, key: tuple[int, int, int], out: Tensor
    ) -> Change:
        """Fill ``out`` [size, size, 3] uint8; what is random depends on ``key`` alone.

        key: seed, pass and index.

        Raises:
            UndecodableError: no image; ``out`` may have changed.
        """


def collect(changes: Sequence[Change]) -> Changes:
    """Those of a batch, in its order."""
    flipped = np.array([change.flip for change in changes], dtype=np.bool_)
    rows: list[tuple[int, ...]] = []
    patches: list[Tensor] = []
    begin = 0
    for row, (_, erasure) in enumerate(changes):
        if erasure is None:
            continue
        noise = erasure.noise
        if isinstance(noise, int):
            begin = noise
        else:
            begin = sum(map(len, patches))
            patches.append(noise.flatten())
        rows.append((row, *erasure[:4], begin))
    erased = np.array(rows, dtype=np.int64).reshape(-1, 6)
    return Changes(flipped, erased, torch.cat(patches) if patches else None)
