"""A module takes on other behaviour and keeps what it owns."""

import pytest
import torch
from torch import nn

from ltm.adopt import adopt


class Doubling(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def test_parameters_and_their_names_stay() -> None:
    linear = nn.Linear(3, 2).requires_grad_(False)
    doubling = adopt(Doubling, linear)
    assert doubling.weight is linear.weight
    assert not doubling.weight.requires_grad
    assert doubling.state_dict().keys() == linear.state_dict().keys()
    x = torch.randn(4, 3)
    torch.testing.assert_close(doubling(x), 2 * linear(x))


def test_a_stranger_is_not_adopted() -> None:
    with pytest.raises(AssertionError, match="Doubling cannot adopt Conv2d"):
        adopt(Doubling, nn.Conv2d(3, 2, 1))
