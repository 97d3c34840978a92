"""Samples by timm's own transforms on what Pillow decodes: ``data.decode: exact``; evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ltm_platform.data.decode import decoded, seed_everything
from ltm_platform.data.pixels.sample import Change, Erasure
from ltm_platform.data.transforms import eval_pixels, train_stages

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from ltm_platform.compat.image_loader.pixels import PixelRule
    from ltm_platform.data.transforms import Augmentation, Backend


class ExactTraining:
    """timm's training transform, up to its normalisation; the noise that erases comes along."""

    def __init__(
        self,
        augment: Augmentation,
        size: int,
        mean: Sequence[float],
        *,
        resize: Backend = "torch",
    ) -> None:
        self.size = size
        self._pixels, self._erase = train_stages(augment, size, mean, resize=resize)

    def __call__(
        self, data: bytes, rule: PixelRule, key: tuple[int, int, int], out: Tensor
    ) -> Change:
        image = decoded(data, rule)
        seed_everything(*key)
        out.copy_(self._pixels(image).permute(1, 2, 0))
        return Change(erasure=self._erasure(self._erase) if self._erase else None)

    def _erasure(self, erase: Callable[[Tensor], Tensor]) -> Erasure | None:
        """What timm would erase, seen by what it leaves of nothing."""
        seen = torch.full((3, self.size, self.size), torch.nan)
        erase(seen)
        found = ~seen[0].isnan()
        rows, columns = (found.any(side).nonzero().flatten().tolist() for side in (1, 0))
        if not rows:
            return None
        top, left, height, width = rows[0], columns[0], len(rows), len(columns)
        noise = seen[:, top : top + height, left : left + width]
        return Erasure(top, left, height, width, noise)


class ExactEvaluation:
    """timm's validation transform, up to its normalisation."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._pixels = eval_pixels(size)

    def __call__(
        self,
        data: bytes,
        rule: PixelRule,
        key: tuple[int, int, int],  # noqa: ARG002 - nothing is random
        out: Tensor,
    ) -> Change:
        out.copy_(self._pixels(decoded(data, rule)).permute(1, 2, 0))
        return Change()
