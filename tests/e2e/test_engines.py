"""Every ZeRO stage trains, with and without merging, in both precisions. (The quickstart: 1.)"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from ltm_platform import tracking

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .conftest import Cli

GUESSING = math.log(10)  # the cross-entropy of ten equally likely digits


def train(cli: Cli, store: str, job: Path, stage: int, *overrides: str) -> Mapping[str, float]:
    name = f"zero-{stage}"
    settings = [f"engine.zero_stage={stage}", *overrides]
    words = [word for setting in settings for word in ("--set", setting)]
    done = cli("submit", str(job), "--name", name, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    run = tracking.find_run(store, name)
    assert run.status == "FINISHED"
    assert run.metrics["val/loss"] < 0.98 * GUESSING
    return run.metrics


def test_stage_0_the_base_model_in_bf16(cli: Cli, store: str, tiny_job: Path) -> None:
    overrides = ("model.method=none", "engine.precision=bf16")
    metrics = train(cli, store, tiny_job, 0, *overrides)
    assert metrics["model/gmacs"] == metrics["model/gmacs_base"]


def test_stage_2_every_step_at_another_ratio_within_a_budget(
    cli: Cli, store: str, tiny_job: Path
) -> None:
    model = "model={compression_ratio: null, target_gmacs: 0.012, elastic: [0.5, 1]}"
    metrics = train(cli, store, tiny_job, 2, model)
    assert metrics["model/gmacs"] == pytest.approx(0.012, rel=0.05)
    assert metrics["model/gmacs"] <= 0.012


def test_stage_3(cli: Cli, store: str, tiny_job: Path) -> None:
    metrics = train(cli, store, tiny_job, 3)
    assert metrics["model/gmacs"] < 0.8 * metrics["model/gmacs_base"]
