"""From uint8 pixels to the float batch of a network, on whatever device they are."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ltm_platform.data.pixels.sample import Changes

NOISE_VALUES = 1 << 20
"""Length of the table of noise. An erased rectangle takes what follows a random place in it: so
every device has the same noise, and none of it travels."""


class ToNetwork:
    """Flips, normalises and erases; every step as `Changes` says, so it draws nothing.

    The values are bit for bit those of torchvision's ``ToTensor`` and ``Normalize``, on CPU and
    GPU: nothing is divided by a constant, which GPUs would replace by a product.

    mean, std: of the channels, [3], where pixels go from 0 to 1.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self._mean, self._std, self._levels = (
            torch.tensor(values, dtype=torch.float32)[:, None, None]
            for values in (mean, std, [255])
        )
        self._noise: Tensor | None = None

    def __call__(
        self, images: Tensor, changes: Changes | None = None, out: Tensor | None = None
    ) -> Tensor:
        """Images [b, 3, H, W] uint8 -> [b, 3, H, W] float32 on the same device.

        changes: None leaves them upright and whole.
        out: is filled and returned, where a caller has one to use again.
        """
        if images.device != self._mean.device:
            self._move(images.device)
        if out is None and images.is_cpu:
            # numpy asks the kernel for huge pages, which torch does not.
            out = torch.from_numpy(np.empty(images.shape, np.float32))
        elif out is None:
            out = torch.empty(images.shape, dtype=torch.float32, device=images.device)
        if images.is_cpu:
            self._each_in_turn(images, changes, out)
        else:
            self._all_at_once(images, changes, out)
        if changes is not None and len(changes.erased):
            self._erase(changes, out)
        return out

    def _move(self, device: torch.device) -> None:
        self._mean, self._std, self._levels = (
            values.to(device) for values in (self._mean, self._std, self._levels)
        )
        self._noise = None

    def _each_in_turn(self, images: Tensor, changes: Changes | None, out: Tensor) -> None:
        """A sample fits the cache of a core, a batch does not."""
        for row, image in enumerate(images):
            flip = changes is not None and changes.flipped[row]
            out[row].copy_(image.flip(-1) if flip else image)
            self._normalise(out[row])

    def _all_at_once(self, images: Tensor, changes: Changes | None, out: Tensor) -> None:
        out.copy_(images)
        if changes is not None:
            rows = torch.from_numpy(np.flatnonzero(changes.flipped))
            rows = rows.to(images.device, non_blocking=True)
            out[rows] = out[rows].flip(-1)
        self._normalise(out)

    def _normalise(self, values: Tensor) -> None:
        values.div_(self._levels).sub_(self._mean).div_(self._std)

    def _erase(self, changes: Changes, out: Tensor) -> None:
        noise = self._table(out.device) if changes.noise is None else changes.noise.to(out.device)
        for row, top, left, height, width, begin in changes.erased.tolist():
            count = 3 * height * width
            if begin + count > len(noise):  # the table, of a very large image
                values = noise.repeat(-(-(begin + count) // len(noise)))
            else:
                values = noise
            patch = values[begin : begin + count].view(3, height, width)
            out[row, :, top : top + height, left : left + width] = patch

    def _table(self, device: torch.device) -> Tensor:
        if self._noise is None:
            self._noise = _noise().to(device)
        return self._noise


@lru_cache(1)
def _noise() -> Tensor:
    draw = np.random.default_rng(0)
    return torch.from_numpy(draw.standard_normal(NOISE_VALUES, dtype=np.float32))
