"""The campaign's own parts: what is drawn, what is counted, what counts as a fault."""

from __future__ import annotations

import io
import random
import signal
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from benchmarks.campaign.cases import Case, hits
from benchmarks.campaign.damage.changes import CHANGES, change, change_json
from benchmarks.campaign.damage.verdict import judge
from benchmarks.campaign.kills import judged
from benchmarks.campaign.main import show
from benchmarks.campaign.one_process import Ended
from benchmarks.campaign.report import Outcome, Report, signature
from ltm_platform.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path


def outcome(counts: dict[str, int], *faults: str, size: int = 0) -> Outcome:
    found = Outcome(faults=list(faults), story=[f"of size {size}"], size=size)
    found.counts.update(counts)
    return found


@pytest.fixture
def report() -> Report:
    """Of three cases, two of them with one fault."""
    report = Report()
    report.add(Case("kill", 7, 0), outcome({"SIGKILL": 2}), 1.0)
    report.add(Case("kill", 7, 1), outcome({"SIGINT": 1}, "step 5 of 'a' is gone", size=4), 1.0)
    report.add(Case("kill", 7, 2), outcome({"SIGKILL": 1}, "step 17 of 'b' is gone", size=2), 1.0)
    return report


def test_a_case_is_drawn_from_its_name_alone() -> None:
    case = Case("kill", 7, 123)
    assert Case.parse(str(case)) == case
    drawn = [hits(Case.parse("kill-7-123").draw(), decoders=True) for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != hits(Case("kill", 8, 123).draw(), decoders=True)


def test_only_runs_with_decoders_have_them_hit() -> None:
    drawn = [hit for n in range(200) for hit in hits(random.Random(n), decoders=False)]
    assert {hit.victim for hit in drawn} == {"command"}
    assert {hit.signal for hit in drawn} == {
        signal.SIGKILL,
        signal.SIGTERM,
        signal.SIGINT,
        signal.SIGSTOP,
    }
    assert {hit.stage for hit in drawn} == {"start", "training", "checkpoint", "evaluation", "end"}


def test_numbers_add_up_over_several_starts(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path / "report.json")
    again = Report.load(tmp_path / "report.json")
    assert again == report
    assert again.first("kill", 7) == 3
    assert again.first("kill", 8) == 0
    again.add(Case("kill", 7, 3), outcome({"SIGKILL": 4}), 2.5)
    assert again.counts["kill"] == {"SIGINT": 1, "SIGKILL": 7}
    assert again.done("kill") == 8
    assert again.seconds["kill"] == 5.5


def test_a_report_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert Report.load(tmp_path / "none.json") == Report()


def test_a_fault_is_kept_once_with_its_smallest_case(report: Report) -> None:
    (fault,) = report.of_kind("kill")
    assert (fault.case, fault.size, fault.times) == ("kill-7-2", 2, 2)
    assert fault.story == ["of size 2"]


def test_two_reports_become_one(report: Report) -> None:
    other = Report()
    other.add(Case("kill", 8, 0), outcome({"SIGKILL": 1}, "step 3 of 'c' is gone", size=1), 1.0)
    other.add(Case("damage", 8, 0), outcome({"flip": 1}, "a traceback"), 1.0)
    report.merge(other)
    assert report.done("kill") == 5
    assert [(fault.case, fault.times) for fault in report.faults] == [
        ("kill-8-0", 3),
        ("damage-8-0", 1),
    ]
    assert report.next == {"kill-7": 3, "kill-8": 1, "damage-8": 1}


def test_the_table_has_the_command_that_repeats_a_fault(report: Report) -> None:
    console = Console(file=io.StringIO(), width=100)
    show(report, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "step 17 of 'b' is gone" in text
    assert "python benchmarks/campaign.py --only kill-7-2" in text


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("/tmp/a/b has 3 bytes", "/home/c has 17 bytes", True),
        ("KeyError: 'classes'", "KeyError: 'counts'", True),
        ("val/top1 lacks steps [4]", "val/top1 lacks steps [6, 12]", True),
        ("KeyError: 'classes'", "TypeError: 'classes'", False),
    ],
)
def test_faults_are_of_one_kind_where_names_and_numbers_differ(
    one: str, other: str, *, same: bool
) -> None:
    assert (signature(one) == signature(other)) is same


@pytest.mark.parametrize("name", CHANGES)
def test_damage_is_the_same_for_one_seed(name: str) -> None:
    data = bytes(range(256))
    assert CHANGES[name](random.Random(3), data) == CHANGES[name](random.Random(3), data)


def test_damage_changes_a_file() -> None:
    for seed in range(100):
        _, changed = change(random.Random(seed), b'{"a": [1, "b"]}')
        assert changed != b'{"a": [1, "b"]}'
        assert change_json(random.Random(seed), b'{"a": [1, "b"]}') is not None
    assert change_json(random.Random(0), b"no JSON") is None


def refused(sentence: str) -> None:
    raise UserError(sentence)


@pytest.mark.parametrize(
    ("sentence", "fault"),
    [
        ("the checkpoint is damaged: model.safetensors is missing", None),
        ("x" * 1000, "1000 letters"),
        ("", "says nothing"),
    ],
)
def test_a_refusal_is_one_bounded_sentence(sentence: str, fault: str | None) -> None:
    found = Outcome()
    assert judge(lambda: refused(sentence), found, "reading") is None
    assert len(found.faults) == (fault is not None)
    assert fault is None or fault in found.faults[0]


def test_an_exception_of_another_kind_is_a_fault() -> None:
    found = Outcome()
    assert judge(lambda: {}["classes"], found, "reading") is None
    assert found.faults == ["reading ends in KeyError: 'classes'"]


KILL = hits(random.Random(0), decoders=False)[0]


@pytest.mark.parametrize(
    ("code", "output", "status", "fault"),
    [
        (0, "", "FINISHED", None),
        (0, "", "RUNNING", "the store has the run as RUNNING"),
        (1, "failed", "FAILED", "the exit code is 1"),
        (0, "Traceback (most recent call last):\nKeyError", "FINISHED", "a traceback"),
    ],
)
def test_a_command_that_was_not_hit_has_to_end_well(
    code: int, output: str, status: str, fault: str | None
) -> None:
    found = list(judged(Ended(code, output, ""), None, "KILLED", status))
    assert bool(found) is (fault is not None)
    assert fault is None or fault in found[0]
