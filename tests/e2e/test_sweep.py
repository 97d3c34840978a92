"""A sweep of two trials: what `make test` sees of `tune`. The rest: test_tune."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlflow import MlflowClient

from ltm_platform import tracking
from ltm_platform.job import JobSpec

from .conftest import settings

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Cli

RATES = {0.002, 1e-06}


def test_two_trials_end_and_the_better_one_is_the_best_job(
    cli: Cli, store: str, home: Path, tiny_job: Path
) -> None:
    words = ["tune", "--job", str(tiny_job), "--name", "two", "--search", "grid"]
    words += ["--param", "recipe.lr=grid:0.002,1e-06"]
    # Each trial computes on one of the two CPUs.
    done = cli(*words, *settings("recipe.epochs=1", "cluster.workers=1"))
    assert done.returncode == 0, done.stdout + done.stderr
    sweep = tracking.find_run(store, "two")
    assert sweep.status == "FINISHED"
    client = MlflowClient(tracking_uri=store)
    experiment = client.get_run(sweep.run_id).info.experiment_id
    trials = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{sweep.run_id}'")
    assert {float(run.data.params["recipe.lr"]) for run in trials} == RATES
    assert len(trials) == len(RATES)
    for run in trials:
        assert run.info.status == "FINISHED"
    best = max(trials, key=lambda run: run.data.metrics["val/top1"])
    assert sweep.tags["ltm.best_trial"] == best.info.run_name
    job = JobSpec.load(home / "runs" / "two" / "best.yaml")
    assert job.recipe.lr == float(best.data.params["recipe.lr"])
