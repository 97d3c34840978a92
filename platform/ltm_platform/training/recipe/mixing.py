"""Mixup and CutMix by timm's `Mixup`, the same for any number of workers."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from timm.data import Mixup
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ltm_platform.job import Recipe


class Mixer:
    """Mixes the micro-batches of a step as timm would mix the global batch.

    What is drawn (Mixup or CutMix, the share, the box) depends on (seed, step) alone, so all
    micro-batches of a step are mixed alike, on all ranks; and neighbours are mixed, which lie in
    one micro-batch however the global batch is divided, as long as it is even.
    """

    def __init__(self, recipe: Recipe, num_classes: int) -> None:
        mix = recipe.mix
        self._seed = recipe.seed
        self._epochs = mix.until * recipe.epochs if mix.enabled else 0.0
        # Labels are smoothed in the loss.
        self._mixup = Mixup(
            mixup_alpha=mix.mixup,
            cutmix_alpha=mix.cutmix,
            prob=mix.prob,
            switch_prob=mix.switch_prob,
            label_smoothing=0.0,
            num_classes=num_classes,
        )

    def __call__(
        self, images: Tensor, labels: Tensor, step: int, epoch: int
    ) -> tuple[Tensor, Tensor]:
        """Images [b, 3, H, W] and labels [b] of global step ``step``, counted from 0.

        Returns the mixed images and the labels' shares [b, C]; where this epoch mixes nothing,
        what came. Images are changed in place.
        """
        if epoch >= self._epochs:
            return images, labels
        assert len(images) % 2 == 0, "pairs are mixed"
        # timm mixes i with b - 1 - i: neighbours, in this order and in none of the others.
        index = torch.arange(len(images), device=images.device)
        order = torch.cat([index[::2], index[1::2].flip(0)])
        with _numpy_seeded(self._seed, step):
            mixed, shares = self._mixup(images[order], labels[order])
        back = order.argsort()
        return mixed[back], shares[back]


@contextmanager
def _numpy_seeded(*seed: int) -> Iterator[None]:
    """timm draws from numpy's global generator; others who do are not disturbed."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(np.random.SeedSequence(seed).generate_state(4))  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002
