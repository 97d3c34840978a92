"""runs, compare, table and reconcile on a store of their own, and their mistakes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from mlflow import MlflowClient

from ltm_platform.job import JobSpec
from ltm_platform.tracking import add_curve, find_run, tracked_run

if TYPE_CHECKING:
    from ..conftest import Run


@pytest.fixture
def run(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call_here: Run) -> Run:
    """Call a command in an empty folder, on a store with a base and a merging run."""
    for name, top1, *overrides in (
        ("base-1", 95.0, "model.method=none", "model.compression_ratio=null"),
        ("ltm-1", 97.5, "name=quick"),
    ):
        job = JobSpec.load("quickstart", [f"tracking.uri={store}", *overrides])
        with tracked_run(job, name, tmp_path / name) as tracked:
            for step, value in ((44, top1 - 1), (88, top1), (132, top1 - 2)):
                tracked.log_metrics({"val/top1": value, "val/loss": 0.1}, step=step, time_ms=step)
            tracked.log_metrics({"model/gmacs": 0.012, "train/loss": 0.5}, step=1, time_ms=1)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    return call_here


def test_runs_are_chosen_and_ordered(run: Run) -> None:
    def names(*args: str) -> list[str]:
        answer = run("runs", *args, "--json")
        assert answer.code == 0, answer.err
        return [one["name"] for one in json.loads(answer.out)]

    assert names() == ["ltm-1", "base-1"]
    assert names("--sort", "val/top1") == ["base-1", "ltm-1"]
    assert names("--sort", "-val/top1", "--limit", "1") == ["ltm-1"]
    assert names("--where", "val/top1>90", "--where", "model.method=ltm") == ["ltm-1"]
    assert names("--job", "quick*", "--status", "finished") == ["ltm-1", "base-1"]
    assert names("--job", "quick") == ["ltm-1"]
    assert names("--status", "failed") == []
    assert names("--experiment", "other") == []
    asked = run("runs", "--where", "recipe.lr<1", "--sort", "started").out.splitlines()
    assert asked[0].split()[-2:] == ["recipe.lr", "started"]
    assert "0.002" in asked[1]
    assert "None of 2 runs" in run("runs", "--where", "val/top1<1").out


def test_compare_prints_what_differs_and_draws(run: Run) -> None:
    answer = run("compare", "base-1", "ltm-1", "--out", "plot.svg")
    assert answer.code == 0, answer.err
    rows = {line[:23].strip(): line[23:].split() for line in answer.out.splitlines()}
    assert rows["model.method"] == ["none", "ltm"]
    assert rows["top-1 %"] == ["93.00", "95.50"]
    assert rows["best top-1 %"] == ["95.00", "97.50"]
    assert "recipe.lr" not in rows
    assert "ltm-1" in Path("plot.svg").read_text()
    (one,) = json.loads(run("compare", "ltm-1", "--json").out)
    assert one["figures"]["best top-1 %"] == 97.5
    assert [path.name for path in Path().iterdir()] == ["plot.svg"]


def test_many_runs_are_compared_a_line_each(run: Run, store: str, tmp_path: Path) -> None:
    names = [f"many-{number}" for number in range(7)]
    for number, name in enumerate(names):
        settings = [f"tracking.uri={store}", f"recipe.lr=0.00{number + 1}0012345"]
        with tracked_run(JobSpec.load("quickstart", settings), name, tmp_path / name) as tracked:
            tracked.log_metrics({"val/top1": 90.0 + number}, step=1, time_ms=1)
    head, *lines = run("compare", *names).out.splitlines()
    assert head.split()[:3] == ["run", "state", "recipe.lr"]
    cells = [line.split() for line in lines if line.startswith("many-")]
    assert [row[0] for row in cells] == names
    assert [row[2] for row in cells] == [f"0.00{number + 1}0012" for number in range(7)]
    assert cells[6][-1] == cells[6][3] == "96.00"


def test_a_curve_that_is_measured_again_is_not_doubled_nor_mixed_with_that_of_other_weights(
    run: Run, store: str
) -> None:
    assert run
    run_id = find_run(store, "ltm-1").run_id
    for top1, source, group in (
        (90.0, "one", "pareto"),
        (90.1, "one", "pareto"),
        (91.0, "two", "pareto_2"),
        (90.1, "one", "pareto"),
    ):
        curve = {500: {"top1": top1}, 1000: {"top1": 95.0}}
        assert add_curve(store, run_id, curve, [], "pareto", source) == group
    client = MlflowClient(tracking_uri=store)
    for group, top1 in (("pareto", 90.0), ("pareto_2", 91.0)):
        rows = client.get_metric_history(run_id, f"{group}/top1")
        assert sorted((row.step, row.value) for row in rows) == [(500, top1), (1000, 95.0)]


def test_table_keeps_digits_apart_in_every_format(run: Run) -> None:
    text = run("table").out
    published, _, others = text.partition("Other data")
    assert "EfficientViT-B1" in published
    assert "digits" not in published
    assert others.count("digits") == 2
    markdown = run("table", "--format", "markdown").out
    widths = {line.count("|") for line in markdown.splitlines() if "---" not in line}
    assert widths == {0, 12, 15}
    rows = list(csv.DictReader(run("table", "--format", "csv").out.splitlines()))
    assert [row["our_run"] for row in rows if row["our_run"]] == ["ltm-1", "base-1"]
    assert sum(bool(row["paper_top1"]) for row in rows) == 31
    found = json.loads(run("table", "--format", "json").out)
    assert {line["ours"]["data"] for line in found["others"]} == {"digits"}
    assert all(line["ours"] is None for line in found["on_imagenet"])


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["runs", "--where", "val/top1"], "is no condition"),
        (["runs", "--sort", "val/topp1"], "did you mean 'val/top1'"),
        (["runs", "--status", "done"], "finished"),
        (["compare", "base-1", "ltm-2"], "did you mean 'ltm-1'"),
        (["compare", "base-1", "--out", "plot.txt"], "png"),
        (["table", "--format", "html"], "markdown"),
        (["pareto", "ltm-2"], "did you mean 'ltm-1'"),
        (["pareto", "ltm-1"], "no validated checkpoint"),
        (["export", "ltm-1", "--format", "tflite"], "onnx"),
        (["export", "ltm-2", "--format", "onnx"], "did you mean 'ltm-1'"),
        (["predict", "ltm-2", "a.png"], "did you mean 'ltm-1'"),
        (["predict", "ltm-1", "a.png", "--token", "1", "1"], "--heatmap"),
        (["analyse", "base-1", "ltm-2"], "no validated checkpoint"),
        (["analyse", "ltm-2"], "did you mean 'ltm-1'"),
        (["reconcile", "--silent-for", "0"], "x>=1"),
    ],
)
def test_a_mistake_is_one_sentence_and_nothing_is_written(
    run: Run, args: list[str], says: str
) -> None:
    answer = run(*args)
    assert (answer.code, answer.out) == (2, "")
    (line,) = answer.err.splitlines()
    assert says in line
    assert list(Path().iterdir()) == []


def test_reconcile_has_nothing_to_do(run: Run) -> None:
    answer = run("reconcile")
    assert (answer.code, answer.out) == (0, "No run is recorded as RUNNING\n")
    assert run("reconcile", "--json").out == "[]\n"
