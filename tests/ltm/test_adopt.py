"""A module takes on other behaviour and keeps what it owns."""

import pytest
import torch
from torch import nn

from ltm.adopt import adopt


class Doubling(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def test_the_module_stays_with_its_parameters_and_hooks() -> None:
    linear = nn.Linear(3, 2).requires_grad_(False)
    weight, keys = linear.weight, linear.state_dict().keys()
    x = torch.randn(4, 3)
    expected = 2 * linear(x)
    seen: list[torch.Tensor] = []
    linear.register_forward_hook(lambda _m, _args, y: seen.append(y))
    doubling = adopt(Doubling, linear)
    assert doubling is linear
    assert doubling.weight is weight
    assert not doubling.weight.requires_grad
    assert doubling.state_dict().keys() == keys
    torch.testing.assert_close(doubling(x), expected)
    assert len(seen) == 1


def test_a_stranger_is_not_adopted() -> None:
    with pytest.raises(AssertionError, match="Doubling cannot adopt Conv2d"):
        adopt(Doubling, nn.Conv2d(3, 2, 1))
