"""What methods that cluster tokens have in common. Legend: B images, N tokens, P clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def distances(x: Tensor) -> Tensor:
    """Euclidean distances between the tokens of an image: x [B, N, D] -> [B, N, N], 0 to itself."""
    x = x - x.mean(1, keepdim=True)  # far from the origin, the difference of products loses digits
    squares = x.square().sum(-1)
    products = x @ x.transpose(1, 2)
    squared = (squares[:, :, None] + squares[:, None] - 2 * products).clamp_min(0)
    itself = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
    return squared.masked_fill(itself, 0).sqrt()


def to_nearest(distance: Tensor, centres: Tensor) -> Tensor:
    """The number of the nearest centre, the first of equals; a centre's is its own.

    distance: [B, N, N], centres: [B, P], tokens, no two alike. Returns [B, N] in [0, P).
    """
    B, N, _ = distance.shape
    P = centres.shape[1]
    to_centres = distance.gather(2, centres[:, None].expand(B, N, P))
    own = torch.arange(P, device=centres.device).expand(B, P)
    return to_centres.argmin(2).scatter(1, centres, own)
