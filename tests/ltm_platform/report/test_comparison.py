"""Runs side by side, and their picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from ltm_platform.errors import UserError
from ltm_platform.report.comparison import compare
from ltm_platform.report.figures import check_picture, comparison_figure, save

if TYPE_CHECKING:
    from ltm_platform.report.comparison import Tracked

    from .conftest import MakeRun


@pytest.fixture
def runs(make_run: MakeRun) -> list[Tracked]:
    curves = {
        "val/top1": [(10, 80.0), (20, 90.0), (30, 85.0)],
        "val/loss": [(10, 1.0), (20, 0.5), (30, 0.6)],
        "train/loss": [(step, 1 / step) for step in range(1, 31)],
    }
    cost = {"model/gmacs": 0.5, "bench/latency_ms": 3.0}
    return [
        make_run("one", curves, metrics=cost, model_method="ltm", recipe_lr=0.1, job="one"),
        make_run("two", status="FAILED", model_method="none", recipe_lr=0.1, job="two"),
    ]


def test_only_what_differs_is_told_and_the_best_epoch_beside_the_last(runs: list[Tracked]) -> None:
    one, two = compare(runs)
    assert one.params == {"model.method": "ltm"}
    assert two.params == {"model.method": "none"}
    assert (one.figures["top-1 %"], one.figures["best top-1 %"]) == (85.0, 90.0)
    assert (one.figures["GMACs"], one.figures["latency ms"]) == (0.5, 3.0)
    assert (two.status, set(two.figures.values())) == ("FAILED", {None})


def test_a_field_that_one_run_lacks_differs(make_run: MakeRun) -> None:
    one, two = compare([make_run("one", model_elastic="[0.5, 1.0]"), make_run("two")])
    assert (one.params, two.params) == ({"model.elastic": "[0.5, 1.0]"}, {"model.elastic": None})


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_the_picture_holds_a_point_and_the_losses(
    runs: list[Tracked], tmp_path: Path, ending: str
) -> None:
    figure = comparison_figure(runs)
    scatter, training, validation = figure.axes
    assert scatter.collections[0].get_offsets().tolist() == [[0.5, 90.0]]
    assert [text.get_text() for text in scatter.texts] == ["one"]
    steps, smooth = training.lines[1].get_data()
    assert list(steps) == list(range(1, 31))
    assert smooth[-1] == pytest.approx(1 / 30)
    assert list(validation.lines[0].get_ydata()) == [1.0, 0.5, 0.6]
    save(figure, tmp_path / f"compare.{ending}")
    assert [path.name for path in tmp_path.iterdir()] == [f"compare.{ending}"]


def test_runs_without_any_metric_can_be_drawn(make_run: MakeRun, tmp_path: Path) -> None:
    figure = comparison_figure([make_run("new", status="RUNNING")])
    save(figure, tmp_path / "new.png")
    with Image.open(tmp_path / "new.png") as picture:
        picture.verify()
    assert not any(axes.collections or axes.texts for axes in figure.axes)


@pytest.mark.parametrize(
    ("path", "says"),
    [("compare.txt", "must end with one of"), ("none/compare.png", "no folder"), (".", "a folder")],
)
def test_where_no_picture_can_be_is_told_before_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"--out .*{says}"):
        check_picture(Path(path), "--out")
