"""The network as torch.compile makes it, for the shapes that training has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ltm_platform.compat.torch import allow_graphs

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

COMPILED_RATIOS = 8
"""Of which a step of elastic training draws one."""
_MODES = 4
"""Training and evaluation, each with gradients and without."""


def compile_network(network: nn.Module, backend: str | Callable[..., Any] = "inductor") -> None:
    """In place: forward passes are compiled when their shape is first seen, at ZeRO stages 0 to 2.

    Shapes are static: merging keeps a number of tokens that follows from the plan, and loaders give
    batches of one size. So there is a graph for training, one for evaluation, and, of elastic
    training, one for each of its ratios.
    """
    allow_graphs(_MODES * (COMPILED_RATIOS + 1))
    network.compile(backend=backend, dynamic=False)
