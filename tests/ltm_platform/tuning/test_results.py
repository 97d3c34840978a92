"""What trials show, of numbers that are easy to see through."""

from __future__ import annotations

import pytest
from PIL import Image

from ltm_platform.tuning.importance import importance
from ltm_platform.tuning.objectives import SweepObjective
from ltm_platform.tuning.params import FOLD, Param, Range, Values
from ltm_platform.tuning.picture import draw_fronts
from ltm_platform.tuning.results import TrialResult, averaged, best, failures, front

TOP1 = SweepObjective("val/top1", "max")
GMACS = SweepObjective("model/gmacs", "min")


def trial(name: str, top1: float, gmacs: float, state: str = "finished") -> TrialResult:
    metrics = {"val/top1": top1, "model/gmacs": gmacs}
    return TrialResult(name, {}, state, 1, metrics)  # type: ignore[arg-type]


TRIALS = [
    trial("a", 90, 2.0),
    trial("b", 80, 1.0),
    trial("beaten", 79, 1.0),
    trial("also beaten", 85, 2.0),
    trial("stopped", 99, 0.5, "stopped early"),
    TrialResult("bench failed", {}, "finished", 1, {"val/top1": 95}),
]


def test_the_front_is_what_no_other_beats() -> None:
    assert [t.name for t in front(TRIALS, (TOP1, GMACS))] == ["b", "a"]


def test_equal_trials_are_both_on_the_front() -> None:
    twins = [trial("a", 90, 1), trial("b", 90, 1)]
    assert len(front(twins, (TOP1, GMACS))) == 2


def test_the_best_has_finished_and_was_measured() -> None:
    chosen = best(TRIALS, (GMACS, TOP1))
    assert chosen
    assert chosen.name == "b"
    assert best(TRIALS[4:5], (TOP1,)) is None


def test_folds_are_averaged_and_need_all_to_finish() -> None:
    trials = [
        TrialResult("1", {"w": 1, FOLD: 0}, "finished", 2, {"val/top1": 60.0}),
        TrialResult("2", {"w": 1, FOLD: 1}, "finished", 2, {"val/top1": 80.0, "other": 1.0}),
        TrialResult("3", {"w": 2, FOLD: 0}, "finished", 2, {"val/top1": 90.0}),
        TrialResult("4", {"w": 2, FOLD: 1}, "failed", 0, {}, "broken"),
    ]
    first, second = averaged(trials)
    assert (first.values, first.metrics) == ({"w": 1}, {"val/top1": 70.0})
    assert second.state == "failed"
    chosen = best(averaged(trials), (TOP1,))
    assert chosen == first


def test_failures_are_told_by_their_reason() -> None:
    broken = [
        TrialResult(name, {}, "failed", error=error)
        for name, error in zip("abc", "xyx", strict=True)
    ]
    assert failures([*TRIALS, *broken]) == {"x": ["a", "c"], "y": ["b"]}


def test_what_decides_is_important() -> None:
    params = (
        Param("decides", Range(0, 1)),
        Param("idle", Range(1e-3, 1, log=True)),
        Param("too", Values(("x", "y"))),
    )
    trials = [
        TrialResult(
            str(i),
            {"decides": i / 16, "idle": 10 ** -(i * 7 % 4), "too": "xy"[i % 2]},
            "finished",
            1,
            {"val/top1": 100 * i / 16},
        )
        for i in range(16)
    ]
    shares = importance(trials, params, TOP1).shares
    assert sum(shares.values()) == pytest.approx(1)
    assert next(iter(shares)) == "decides"
    assert shares["decides"] > 0.5


def test_where_importance_cannot_be_told_the_reason_is() -> None:
    params = (Param("a", Range(0, 1)), Param("b", Range(0, 1)))
    equal = [
        TrialResult(str(i), {"a": i / 4, "b": 0.5}, "finished", 1, {"val/top1": 9.0})
        for i in range(4)
    ]
    for trials, fields, reason in (
        (equal, params[:1], "one field alone"),
        (equal[:3], params, "there are 3"),
        (equal, params, "all 4 finished trials are equal"),
    ):
        found = importance(trials, fields, TOP1)
        assert not found.shares
        assert reason in (found.missing or "")


def test_the_picture_is_drawn_whatever_was_measured(tmp_path) -> None:  # type: ignore[no-untyped-def]
    costs = (GMACS, SweepObjective("bench/latency_ms", "min"))
    draw_fronts(TRIALS, TOP1, costs, tmp_path / "front.png")
    with Image.open(tmp_path / "front.png") as picture:
        assert picture.width > 500
