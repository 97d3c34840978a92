"""What a user sees of a sweep, on a terminal and in a file."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from ltm_platform.cli.screen.sweep import SweepScreen
from ltm_platform.job import JobSpec
from ltm_platform.ray_cluster.resources import Resources
from ltm_platform.storage.run_folder import RunFolder
from ltm_platform.tuning.objectives import read_objectives
from ltm_platform.tuning.results import TrialResult
from ltm_platform.tuning.spec import Sweep
from ltm_platform.tuning.sweep_driver import Plan, plan_sweep, summarize

if TYPE_CHECKING:
    from pathlib import Path

    from ltm_platform.tuning.results import State

WIDTH = 80
OBJECTIVES = read_objectives(("val/top1", "model/gmacs"))


@pytest.fixture(scope="module")
def plan() -> Plan:
    job = JobSpec.load("quickstart", ["cluster.workers=1"])
    params = ("lr", "ib_weight")
    return plan_sweep(Sweep("s", job.to_dict(), params, trials=6), Resources(cpus=2, gpus=0))


def trial(number: int, state: State, error: str | None = None) -> TrialResult:
    values = {"recipe.lr": number / 1000, "recipe.ib.weight": number / 10}
    metrics = {"val/top1": 10.0 * number, "model/gmacs": 0.01}
    if state == "finished":
        metrics |= {"bench/latency_ms": float(number)}
    return TrialResult(f"s-{number:03d}", values, state, 3, metrics, error)


def console(*, terminal: bool) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    width = WIDTH if terminal else 1000
    settings: dict[str, Any] = {"highlight": False, "markup": False, "width": width}
    return Console(file=file, force_terminal=terminal, color_system=None, **settings), file


def test_in_a_file_a_trial_is_one_line_and_is_in_the_log_too(plan: Plan, tmp_path: Path) -> None:
    out, file = console(terminal=False)
    log = tmp_path / "run.log"
    screen = SweepScreen(out, plan, log)
    with screen:
        for state in ("waiting", "running", "finished", "finished"):
            screen(trial(1, state))
        screen(trial(2, "failed", "the reason " * 30))
    first, second = file.getvalue().splitlines()
    assert first.startswith("trial 1/6  s-001  finished  recipe.lr 0.001")
    assert second.rstrip().endswith("the reason")
    assert log.read_text() == file.getvalue()


def test_in_a_terminal_nothing_is_cut_and_a_table_says_what_goes_on(
    plan: Plan, tmp_path: Path
) -> None:
    out, file = console(terminal=True)
    screen = SweepScreen(out, plan)
    screen.head(RunFolder(tmp_path / "s"))
    with screen:
        screen(trial(1, "finished"))
        screen(trial(2, "running"))
        screen(trial(3, "failed", "the reason " * 30))
    text = file.getvalue()
    assert "2 of 6 trials ended" in text
    _, _, table = text.rpartition("trials ended")
    assert "trial state" in table  # one space between columns that have no room
    assert "002   running" in table
    assert "\N{HORIZONTAL ELLIPSIS}" not in table
    assert text.count("the reason") < 15
    assert "0.01 GMACs" in text.replace("\n", " ")


def test_the_end_tells_what_mattered_or_why_that_is_not_known(plan: Plan, tmp_path: Path) -> None:
    trials = [trial(n, "finished") for n in range(1, 6)] + [trial(6, "failed", "broken")]
    two = replace(plan, stages=(replace(plan.stages[0], objectives=OBJECTIVES),))
    for some, expected in (
        (trials, ("Importance for val/top1\n", "recipe.lr ", "for model/gmacs: all 5 finished")),
        (trials[-3:], ("Importance for val/top1 and model/gmacs: it takes 4 finished trials",)),
    ):
        out, file = console(terminal=False)
        screen = SweepScreen(out, two)
        screen.result(summarize(two, some, some[0], RunFolder(tmp_path).path))
        text = file.getvalue()
        for words in expected:
            assert words in text
        assert f"1 of {len(some)} trials failed" in text
        assert f"best trial  {some[0].name}: val/top1" in text
