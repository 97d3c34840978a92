"""What is sharded learns. (Stage 0 in bf16: test_faults; stage 2: test_endings.)"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from .conftest import ELASTIC

if TYPE_CHECKING:
    from collections.abc import Callable

    from ltm_platform.tracking import RunRecord

    Trained = Callable[..., RunRecord]

pytestmark = pytest.mark.slow

GUESSING = math.log(10)  # the cross-entropy of ten equally likely digits


def test_stage_1_every_step_at_another_ratio_within_a_budget(trained: Trained) -> None:
    metrics = trained(1, ELASTIC).metrics
    assert metrics["val/loss"] < 0.98 * GUESSING
    assert metrics["model/gmacs"] == pytest.approx(0.012, rel=0.05)
    assert metrics["model/gmacs"] <= 0.012


def test_stage_3(trained: Trained) -> None:
    metrics = trained(3).metrics
    assert metrics["val/loss"] < 0.98 * GUESSING
    assert metrics["model/gmacs"] < 0.8 * metrics["model/gmacs_base"]
