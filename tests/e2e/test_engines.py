"""Every ZeRO stage trains, with and without merging, in both precisions. (The quickstart: 1.)"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from ltm_platform.tracking import RunRecord

    Trained = Callable[..., RunRecord]

GUESSING = math.log(10)  # the cross-entropy of ten equally likely digits


def test_stage_0_the_base_model_in_bf16(trained: Trained) -> None:
    metrics = trained(0, "model.method=none", "engine.precision=bf16").metrics
    assert metrics["val/loss"] < 0.98 * GUESSING
    assert metrics["model/gmacs"] == metrics["model/gmacs_base"]


def test_stage_2_every_step_at_another_ratio_within_a_budget(trained: Trained) -> None:
    model = "model={compression_ratio: null, target_gmacs: 0.012, elastic: [0.5, 1]}"
    metrics = trained(2, model).metrics
    assert metrics["val/loss"] < 0.98 * GUESSING
    assert metrics["model/gmacs"] == pytest.approx(0.012, rel=0.05)
    assert metrics["model/gmacs"] <= 0.012


def test_stage_3(trained: Trained) -> None:
    metrics = trained(3).metrics
    assert metrics["val/loss"] < 0.98 * GUESSING
    assert metrics["model/gmacs"] < 0.8 * metrics["model/gmacs_base"]
