"""Speeds of trials are measured again, once a network, and stand in their runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlflow import MlflowClient

from ltm_platform.job import JobSpec
from ltm_platform.tracking import find_run, tracked_run, tracked_sweep
from ltm_platform.tuning.latency import measured_alone
from ltm_platform.tuning.results import TrialResult

if TYPE_CHECKING:
    from pathlib import Path


def test_trials_of_the_same_network_are_equally_fast(store: str, tmp_path: Path) -> None:
    job = JobSpec.load("quickstart", [f"tracking.uri={store}", "cluster.workers=1"])
    crowded = {"bench/latency_ms": 1e6, "val/top1": 50.0}
    trials = [
        TrialResult("a", {"recipe.lr": 1e-3}, "finished", 2, crowded),
        TrialResult("b", {"recipe.lr": 2e-3}, "finished", 2, crowded),
        TrialResult("c", {"recipe.lr": 3e-3}, "failed", 0, {}, "why"),
    ]
    with tracked_sweep(job, "s", tmp_path) as sweep:
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            with tracked_run(job, name, tmp_path / name, parent=sweep.run_id) as run:
                run.log_metrics(crowded, step=90, time_ms=1)
        first, second, failed = measured_alone(trials, job, 10, sweep, tmp_path)
    assert first.metrics == second.metrics
    assert first.metrics["val/top1"] == 50.0
    assert 0 < first.metrics["bench/latency_ms"] < 1e6
    assert failed == trials[2]
    for name in ("a", "b"):
        run = find_run(store, name)
        assert run.metrics["bench/latency_ms"] == first.metrics["bench/latency_ms"]
        history = MlflowClient(store).get_metric_history(run.run_id, "bench/latency_ms")
        assert sorted(one.step for one in history) == [90, 91]
