"""Runs by conditions and in an order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ltm_platform.errors import UserError
from ltm_platform.report.selection import Condition, select

if TYPE_CHECKING:
    from ltm_platform.tracking import RunRecord

    from .conftest import MakeRun


@pytest.fixture
def runs(make_run: MakeRun) -> list[RunRecord]:
    made = [
        make_run("ltm-2", {"val/top1": [(1, 91.0)]}, model_method="ltm", model_plan=None),
        make_run("ltm-10", {"val/top1": [(1, 9.5)]}, model_method="ltm", recipe_sync_bn=True),
        make_run("base-1", {"val/top1": [(1, 95.0)]}, model_method="none", status="KILLED"),
        make_run("broken", status="FAILED", model_method="ltm"),
    ]
    return [run.record for run in made]


@pytest.mark.parametrize(
    ("conditions", "names"),
    [
        (["val/top1>90"], ["ltm-2", "base-1"]),
        (["val/top1 >= 91", "model.method=ltm"], ["ltm-2"]),
        (["val/top1<91"], ["ltm-10"]),
        (["val/top1==95.00"], ["base-1"]),
        (["model.method!=ltm"], ["base-1"]),
        (["name=ltm-*"], ["ltm-2", "ltm-10"]),
        (["recipe.sync_bn=true"], ["ltm-10"]),
        (["model.plan=null"], ["ltm-2"]),
        (["status=FAILED"], ["broken"]),
        (["started>2023-11-10", "started<2023-11-20", "val/top1>94"], ["base-1"]),
        (["started>2100"], []),
    ],
)
def test_conditions(runs: list[RunRecord], conditions: list[str], names: list[str]) -> None:
    found = select(runs, map(Condition.parse, conditions))
    assert [run.name for run in found] == names


@pytest.mark.parametrize(
    ("sort", "names"),
    [
        ("val/top1", ["ltm-10", "ltm-2", "base-1", "broken"]),
        ("-val/top1", ["base-1", "ltm-2", "ltm-10", "broken"]),
        ("name", ["base-1", "broken", "ltm-10", "ltm-2"]),
        ("-model.method", ["base-1", "ltm-2", "ltm-10", "broken"]),
    ],
)
def test_orders(runs: list[RunRecord], sort: str, names: list[str]) -> None:
    assert [run.name for run in select(runs, sort=sort)] == names
    assert [run.name for run in select(runs, sort=sort, limit=2)] == names[:2]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("val/top1", "is no condition"),
        ("val/top1>", "is no condition"),
        (">90", "is no condition"),
        ("val/top1>high", "needs a number, but 'high' is none"),
    ],
)
def test_what_is_no_condition_is_told(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        Condition.parse(text)


def test_an_unknown_key_is_told_with_the_nearest(runs: list[RunRecord]) -> None:
    for wrong in ({"sort": "-val/topp1"}, {"conditions": [Condition.parse("val/topp1>3")]}):
        with pytest.raises(UserError, match="did you mean 'val/top1'"):
            select(runs, **wrong)
    assert select([], [Condition.parse("val/top1>3")], sort="val/top1") == []
