"""A sweep as a user runs it: killed, resumed, ended, resumed, with a trial that breaks."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from mlflow import MlflowClient
from playwright.sync_api import expect

from ltm_platform import tracking
from ltm_platform.job import JobSpec

from .browsing import needs_chromium, table_of_runs
from .conftest import TIMEOUT_S, in_background, wait_until

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from mlflow.entities import Run

    from .conftest import Cli

pytestmark = pytest.mark.slow

GOOD, WEAK, WEAKER = "0.002", "1.0e-06", "2.0e-06"


def children(store: str, sweep: str) -> dict[str, Run]:
    """The runs of the trials, by name."""
    client = MlflowClient(tracking_uri=store)
    parents = [run for run in tracking.list_runs(store) if run.name == sweep]
    if not parents:
        return {}
    experiment = client.get_run(parents[0].run_id).info.experiment_id
    found = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parents[0].run_id}'")
    assert len({run.info.run_name for run in found}) == len(found)
    return {run.info.run_name: run for run in found}


@pytest.fixture(scope="module")
def resumed(
    cli: Cli, environment: dict[str, str], store: str, home: Path, tiny_job: Path
) -> tuple[dict[str, Run], subprocess.CompletedProcess[str]]:
    """What had finished when the sweep was killed, and how its second resumption went; the first
    was ended."""
    words = ["--job", str(tiny_job), "--name", "sweep", "--scheduler", "asha", "--search", "grid"]
    words += ["--param", f"recipe.lr=grid:{GOOD},{WEAK},{WEAKER}"]
    words += ["--param", "recipe.optimizer=choice:adamw,nonsense", "--set", "recipe.epochs=3"]
    words += ["--set", "tracking.log_model=true", "--set", "data.subset=0.3"]
    finished: dict[str, Run] = {}

    def one_is_whole_and_one_stopped_early() -> bool:
        """Tune's scheduler forgets what it knew when the sweep is killed, and stops fewer then."""
        runs = children(store, "sweep")
        finished.update({name: run for name, run in runs.items() if run.info.status == "FINISHED"})
        return {"ltm.stopped_early" in run.data.tags for run in finished.values()} == {True, False}

    folder = home / "runs" / "sweep"
    with in_background(environment, "tune", *words) as process:
        wait_until(one_is_whole_and_one_stopped_early, process, folder)
        process.kill()

    def goes_on() -> bool:
        return (folder / "run.log").read_text().count("View detailed results") == 2

    with in_background(environment, "resume", "sweep") as process:
        wait_until(goes_on, process, folder)
        # to Ray's processes, too, as what ends a batch job or a service does it
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 130
    assert tracking.find_run(store, "sweep").status == "KILLED"
    assert "RUNNING" not in {run.info.status for run in children(store, "sweep").values()}
    return finished, cli("resume", "sweep")


def test_a_killed_sweep_goes_on_and_repeats_nothing(
    resumed: tuple[dict[str, Run], subprocess.CompletedProcess[str]], store: str
) -> None:
    finished, done = resumed
    assert done.returncode == 0, done.stdout + done.stderr
    runs = children(store, "sweep")
    assert len(runs) == 6
    for name, before in finished.items():
        assert runs[name].info.end_time == before.info.end_time
    assert tracking.find_run(store, "sweep").status == "FINISHED"
    assert {run.info.status for run in runs.values()} == {"FINISHED", "FAILED"}


def test_trials_are_stopped_early_or_fail_and_the_others_do_not_mind(
    resumed: tuple[dict[str, Run], subprocess.CompletedProcess[str]], store: str
) -> None:
    _, done = resumed
    failed, stopped, whole = [], [], []
    for run in children(store, "sweep").values():
        if run.data.params["recipe.optimizer"] == "nonsense":
            failed.append(run)
        elif "ltm.stopped_early" in run.data.tags:
            stopped.append(run)
        else:
            whole.append(run)
    assert len(failed) == 3
    for run in failed:
        assert run.info.status == "FAILED"
        assert "recipe.optimizer is 'nonsense'" in run.data.tags["ltm.error"]
    # Of three, the one that begins last is stopped: the first that reports is never.
    assert stopped
    client = MlflowClient(tracking_uri=store)
    for run in [*stopped, *whole]:
        assert run.info.status == "FINISHED"
        pictures = [file.path for file in client.list_artifacts(run.info.run_id, "images")]
        for name in ("confusion matrix", "heatmaps"):
            assert any(name in picture for picture in pictures), run.info.run_name
        assert run.data.metrics["model/gmacs"] > 0
        assert run.data.metrics["val/top1"] > 0
    for run in stopped:
        assert int(run.data.tags["ltm.stopped_early"]) < 3  # never in the last epoch
    for run in whole:
        assert run.data.metrics["bench/latency_ms"] > 0
    assert "3 of 6 trials failed" in done.stdout
    assert "recipe.optimizer is 'nonsense'" in done.stdout
    assert "Importance for val/top1" in done.stdout


def test_the_best_job_is_ready_and_its_network_and_the_picture_are_in_mlflow(
    resumed: tuple[dict[str, Run], subprocess.CompletedProcess[str]],
    cli: Cli,
    store: str,
    home: Path,
) -> None:
    _, done = resumed
    assert "best trial" in done.stdout
    best = home / "runs" / "sweep" / "best.yaml"
    job = JobSpec.load(best)
    assert f"{job.recipe.lr:g}" == f"{float(GOOD):g}"
    assert cli("validate", str(best)).returncode == 0
    record = tracking.find_run(store, "sweep")
    with_model = [
        name
        for name, run in children(store, "sweep").items()
        if run.outputs and run.outputs.model_outputs
    ]
    assert with_model == [record.tags["ltm.best_trial"]]
    found = MlflowClient(tracking_uri=store).list_artifacts(record.run_id, "sweep")
    names = {file.path for file in found}
    assert {f"sweep/{name}" for name in ("pareto.png", "best.yaml", "trials.csv")} <= names


@needs_chromium
def test_the_trials_are_seen_under_their_sweep(
    resumed: tuple[dict[str, Run], subprocess.CompletedProcess[str]],  # noqa: ARG001
    store: str,
    tmp_path: Path,
) -> None:
    trials = children(store, "sweep")
    best = trials[tracking.find_run(store, "sweep").tags["ltm.best_trial"]]
    with table_of_runs(store, tmp_path / "ui.log") as open_table:
        page = open_table()
        page.get_by_role("link", name="sweep", exact=True).click()
        expect(page.get_by_text("Child runs").first).to_be_visible()
        for name in trials:
            expect(page.get_by_role("link", name=name, exact=True)).to_be_attached()
        page.get_by_role("link", name=best.info.run_name, exact=True).click()
        for metric in ("val/top1", "model/gmacs"):
            expect(page.get_by_text(metric, exact=True).first).to_be_attached()
            value = str(best.data.metrics[metric])
            expect(page.get_by_text(value, exact=True).first).to_be_attached()


def test_a_finished_sweep_has_nothing_to_go_on_with(
    resumed: tuple[dict[str, Run], subprocess.CompletedProcess[str]],  # noqa: ARG001
    cli: Cli,
) -> None:
    refused = cli("resume", "sweep")
    assert refused.returncode == 2
    assert "has finished" in refused.stderr
