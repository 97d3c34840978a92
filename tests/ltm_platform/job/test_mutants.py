"""Damaged jobs are refused in sentences: a slice of the campaign's (`benchmarks/campaign`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks.campaign import jobs

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_job_is_taken_or_refused_in_sentences(seed: int, tmp_path: Path) -> None:
    faults = {
        fault: mutant
        for mutant in jobs.mutations(seed, 100)
        if (fault := jobs.check(mutant, tmp_path))
    }
    assert not faults


def test_a_mutant_can_be_had_again() -> None:
    assert list(jobs.mutations(5, 3, first=7)) == list(jobs.mutations(5, 10))[7:]


def test_a_fault_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("x")

    mutant = jobs.Mutant(jobs.GOOD.encode())
    assert jobs.check(mutant, tmp_path) is None
    monkeypatch.setattr(jobs.checks, "check_job", broken)
    fault = jobs.check(mutant, tmp_path)
    assert fault
    assert fault.startswith("KeyError at ")
