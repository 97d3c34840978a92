"""Changes of a network that end with a block, or with an error in it."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from ltm.modes import evaluating, unchanged_on_error


def network() -> Any:
    return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout())


def test_modes_come_back_after_an_error_too() -> None:
    model = network().train()
    model[1].eval()
    with pytest.raises(ZeroDivisionError), evaluating(model):
        assert not any(module.training for module in model.modules())
        raise ZeroDivisionError
    assert [module.training for module in model.modules()] == [True, True, False, True]


def test_what_was_replaced_comes_back_with_an_error() -> None:
    model = network()
    model.sizes = {"window": [2, 2]}
    weight, mean, sizes = model[0].weight, model[1].running_mean, model.sizes
    with pytest.raises(ZeroDivisionError), unchanged_on_error(model):
        model[0].weight = nn.Parameter(weight[:1])
        model[0].extra = 1
        model[1].running_mean = mean[:1]
        model.sizes["window"][0] = 7
        model.sizes = {}
        model.append(nn.Linear(2, 2))
        model[2].__class__ = nn.Identity
        raise ZeroDivisionError
    assert model[0].weight is weight
    assert model[1].running_mean is mean
    assert model.sizes is sizes
    assert sizes == {"window": [2, 2]}
    assert len(model) == 3
    assert not hasattr(model[0], "extra")
    assert type(model[2]) is nn.Dropout


def test_without_an_error_changes_stay() -> None:
    model = network()
    with unchanged_on_error(model):
        model.append(nn.Linear(2, 2))
    assert len(model) == 4
