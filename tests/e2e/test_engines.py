"""Every ZeRO stage trains, and none of them changes what is learned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ltm_platform import tracking

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Cli


def losses(cli: Cli, store: str, job: Path, stage: int) -> tuple[float, ...]:
    name = f"zero-{stage}"
    done = cli("submit", str(job), "--name", name, "--set", f"engine.zero_stage={stage}")
    assert done.returncode == 0, done.stdout + done.stderr
    run = tracking.find_run(store, name)
    assert run.status == "FINISHED"
    return run.metrics["train/loss"], run.metrics["val/loss"]


def test_stages_agree(cli: Cli, store: str, tiny_job: Path) -> None:
    expected = losses(cli, store, tiny_job, 0)
    for stage in (2, 3):  # the quickstart is stage 1
        assert losses(cli, store, tiny_job, stage) == pytest.approx(expected, rel=2e-2)


def test_one_network_trains_at_many_ratios_within_a_budget(
    cli: Cli, store: str, tiny_job: Path
) -> None:
    model = "model={compression_ratio: null, target_gmacs: 0.012, elastic: [0.5, 1]}"
    done = cli("submit", str(tiny_job), "--name", "elastic", "--set", model)
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = tracking.find_run(store, "elastic").metrics
    assert 0.011 < metrics["model/gmacs"] <= 0.012


def test_the_base_model_trains_without_merging_in_bf16(
    cli: Cli, store: str, tiny_job: Path
) -> None:
    overrides = ("--set", "model.method=none", "--set", "engine.precision=bf16")
    done = cli("submit", str(tiny_job), "--name", "base", *overrides)
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = tracking.find_run(store, "base").metrics
    assert metrics["model/gmacs"] == metrics["model/gmacs_base"]
