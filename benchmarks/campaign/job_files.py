"""Cases of damaged jobs, see `jobs`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .jobs import check, mutations
from .report import Outcome

if TYPE_CHECKING:
    from .cases import Case


def carry_out(case: Case) -> Outcome:
    """Have one mutant read and checked."""
    (mutant,) = mutations(case.seed, 1, case.number)
    outcome = Outcome(size=len(mutant.text) + sum(map(len, mutant.overrides + mutant.params)))
    outcome.counts["jobs"] += 1
    outcome.story += [repr(mutant.text), *mutant.overrides, *mutant.params]
    fault = check(mutant)
    if fault and fault.startswith("took"):
        fault = check(mutant)  # the machine may have been busy
    if fault:
        outcome.faults.append(f"a job: {fault}")
    return outcome
