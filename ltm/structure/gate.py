"""A gate lets the output of each head or hidden unit through, or not."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Gate(nn.Module):
    """Multiplies the channels of every component (head or unit) with 1 if it is kept, else with 0.

    Where a gate is closed, no gradient reaches the weights of its component, so that training with
    closed gates is training the smaller network. The derivative of the loss by the gate itself is
    the first-order Taylor term of the component: at an open gate sum w * dL/dw over the weights
    that read its output, at a closed one what opening it would change.

    components: how many, K. width: channels of one, next to each other. tiles: how often all
    channels come, in the same order. dim: the dimension of channels in the input.

    kept: [K], bool. score: [K], what a method gathers about the components in training.
    watched: None; "batch" keeps a derivative by the gates of a batch, "image" one for each image.
    """

    kept: Tensor
    score: Tensor

    def __init__(self, components: int, width: int = 1, tiles: int = 1, dim: int = -1) -> None:
        super().__init__()
        self.width, self.tiles, self.dim = width, tiles, dim
        self.register_buffer("kept", torch.ones(components, dtype=torch.bool))
        self.register_buffer("score", torch.zeros(components))
        self.watched: str | None = None
        self._leaf: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x [B, ..., tiles x K x width] by `dim` -> the same shape."""
        factor = self._watched_gates(x.shape[0]) if self._is_watched else self.kept[None].float()
        factor = factor[:, None, :, None].expand(-1, self.tiles, -1, self.width).flatten(1)
        shape = [1] * x.ndim
        shape[0], shape[self.dim] = factor.shape
        return x * factor.view(shape).to(x.dtype)

    def close(self, kept: Tensor) -> None:
        """Keep the components that are True in kept [K], and close the others."""
        self.kept.copy_(kept)
        self._leaf = None

    def take_gradient(self) -> Tensor | None:
        """Derivatives of all losses since the last call, [1 or B, K]; None when there are none."""
        if self._leaf is None or self._leaf.grad is None:
            return None
        gradient, self._leaf.grad = self._leaf.grad, None
        return gradient

    def take_leaf(self) -> Tensor:
        """The gates of the last forward pass, to differentiate by: [1 or B, K]."""
        assert self._leaf is not None, "a gate that is not watched has no derivative"
        leaf, self._leaf = self._leaf, None
        return leaf

    @property
    def _is_watched(self) -> bool:
        if self.watched == "batch":
            return self.training and torch.is_grad_enabled()
        return self.watched == "image"

    def _watched_gates(self, images: int) -> Tensor:
        rows = images if self.watched == "image" else 1
        if self._leaf is None:  # micro-batches of one step add up in the same leaf
            self._leaf = self.kept.float().expand(rows, -1).clone().requires_grad_()
        return self._leaf
