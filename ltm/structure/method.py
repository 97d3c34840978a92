"""What methods share that remove heads and hidden units instead of tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from ltm.interfaces import Hooks
from ltm.structure.select import best

if TYPE_CHECKING:
    from ltm.interfaces import Reduces
    from ltm.structure.parts import Part


class StructureMethod(Hooks):
    """A method that chooses which components of a `ltm.structure.PrunableModel` stay.

    It works at ZeRO stages 0 to 2: at stage 3 a rank has only slices of the weights.
    """

    reduces: ClassVar[Reduces] = "structure"
    whole_weights = True

    def at_start(self, part: Part, count: int) -> Tensor:
        """[K] bool: the `count` components that a part keeps before training chooses others.

        By default those of the largest L1 norm.
        """
        return best(part.magnitude(), count)


def mean_over_ranks(x: Tensor) -> Tensor:
    """The same on all ranks; x itself where there is one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        x = x.clone()
        torch.distributed.all_reduce(x)
        x /= torch.distributed.get_world_size()
    return x


def all_rows(x: Tensor) -> Tensor:
    """Rows [n, K] of all ranks, in their order: [ranks x n, K]."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        rows = [torch.empty_like(x) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(rows, x.contiguous())
        return torch.cat(rows)
    return x
