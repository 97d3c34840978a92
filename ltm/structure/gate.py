"""A gate lets the output of each head or hidden unit through, or not."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Seen(NamedTuple):
    """Sums over images, each [K], of what a watched gate's output x has to do with the loss L.

    effect: |sum of x dL/dx|, the first-order Taylor term of the component in the image. With the
        gate closed there is none.
    slope: L1 norm of dL/dx, also where the gate is closed.
    """

    effect: Tensor
    slope: Tensor


class Gate(nn.Module):
    """Multiplies the channels of every component (head or unit) with 1 if it is kept, else with 0.

    Where a gate is closed, no gradient reaches the weights of its component, so that training with
    closed gates is training the smaller network.

    components: how many, K. width: channels of one, next to each other. tiles: how often all
    channels come, in the same order. dim: the dimension of channels in the input. rows: how many of
    its rows are of one image.

    kept: [K], bool. watched: whether backward passes add to what `take` gives.
    """

    kept: Tensor

    def __init__(
        self, components: int, width: int = 1, tiles: int = 1, dim: int = -1, rows: int = 1
    ) -> None:
        super().__init__()
        self.width, self.tiles, self.dim, self.rows = width, tiles, dim, rows
        self.register_buffer("kept", torch.ones(components, dtype=torch.bool))
        self.watched = False
        self._seen: Seen | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x [rows x B, ..., tiles x K x width] by `dim` -> the same shape."""
        out = self.scaled(x, self.kept[None].float())
        if self.watched and out.requires_grad:
            out.register_hook(partial(self._add, out.detach()))
        return out

    def scaled(self, x: Tensor, factor: Tensor) -> Tensor:
        """x, its components multiplied by factor [1 or B, K]."""
        if len(factor) > 1:
            factor = factor.repeat_interleave(self.rows, 0)
        channels = factor[:, None, :, None].expand(-1, self.tiles, -1, self.width).flatten(1)
        shape = [1] * x.ndim
        shape[0], shape[self.dim] = channels.shape
        return x * channels.view(shape).to(x.dtype)

    def close(self, kept: Tensor) -> None:
        """Keep the components that are True in kept [K], and close the others."""
        self.kept.copy_(kept)

    def take(self) -> Seen | None:
        """Of all backward passes since the last call; None when there were none."""
        seen, self._seen = self._seen, None
        return seen

    @torch.no_grad()
    def _add(self, x: Tensor, gradient: Tensor) -> None:
        gradient = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
        effect = self._by_component(x * gradient).abs().sum(0)
        slope = self._by_component(gradient.abs()).sum(0)
        before = self._seen or Seen(torch.zeros_like(effect), torch.zeros_like(slope))
        self._seen = Seen(before.effect + effect, before.slope + slope)

    def _by_component(self, x: Tensor) -> Tensor:
        """Sums [B, K] over all else."""
        sums = x.movedim(self.dim, -1).flatten(1, -2).sum(1)
        sums = sums.unflatten(0, (-1, self.rows)).unflatten(2, (self.tiles, -1, self.width))
        return sums.sum((1, 2, 4))
