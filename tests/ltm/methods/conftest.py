"""Tokens so few that a merge can be worked out by hand."""

import torch
from torch import Tensor


def on_circle(*degrees: float) -> Tensor:
    """Unit vectors [1, N, 2]: cosines are those of the differences."""
    angles = torch.tensor(degrees).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], -1)[None]


# tokens 0 and 3 are closest, then 4 and 1; 2 is alone


# tokens 0 and 3 are closest, then 4 and 1; 2 is alone
SIX = on_circle(0, 60, 170, 1, 57, 115)
