"""What trials are compared by."""

from __future__ import annotations

import pytest

from ltm_platform.errors import UserError
from ltm_platform.tuning.objectives import SweepObjective, read_objectives

TOP1 = SweepObjective("val/top1", "max")
GMACS = SweepObjective("model/gmacs", "min")


def test_objectives_have_a_direction() -> None:
    assert read_objectives(()) == (TOP1,)
    assert read_objectives(("val/top1", "model/gmacs")) == (TOP1, GMACS)
    assert read_objectives(("model/gmacs:max",))[0].direction == "max"
    for text, hint in (("val/top", "did you mean"), ("val/top1:up", "val/top1:max")):
        with pytest.raises(UserError, match=hint):
            read_objectives((text,))
    with pytest.raises(UserError, match="twice"):
        read_objectives(("val/top1", "val/top1:min"))


def test_better_follows_the_direction() -> None:
    assert TOP1.better(0.9, 0.8)
    assert GMACS.better(1.0, 2.0)
    assert not TOP1.better(0.8, 0.8)
    assert not GMACS.better(1.0, 1.0)


def test_a_scheduler_can_use_what_every_epoch_measures() -> None:
    assert TOP1.every_epoch
    assert not GMACS.every_epoch


def test_an_objective_that_was_not_measured_has_no_value() -> None:
    assert TOP1.of({"val/top1": 0.5}) == 0.5
    assert TOP1.of({"model/gmacs": 1.0}) is None
