"""What a campaign has done and found, in a file that several starts add to."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from .cases import Case

_VARIABLE = re.compile(r"\[[^\]]*\]|'[^']*'|\"[^\"]*\"|/\S+|\b[0-9a-f]{7,}\b|-?\d+(\.\d+)?")
"""What differs between two faults of one kind: lists, quoted values, paths, numbers."""


@dataclass
class Outcome:
    """What a case did and found."""

    counts: Counter[str] = field(default_factory=Counter)
    """How much was done, by what it was."""
    faults: list[str] = field(default_factory=list)
    """Full sentences; none if all held."""
    story: list[str] = field(default_factory=list)
    """What was done, in order."""
    size: int = 0
    """Of the input: of two cases with one fault the smaller one is kept."""


@dataclass
class Fault:
    """A kind of fault."""

    kind: str
    signature: str
    """Its sentence without what varies."""
    sentence: str
    case: str
    """The smallest that has it."""
    size: int
    story: list[str]
    times: int = 1


@dataclass
class Report:
    """Counts by kind (``kill``, ``damage``, ``job``), and every distinct fault once."""

    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    next: dict[str, int] = field(default_factory=dict)
    """Kind and seed -> the number of the first case that was not done."""
    seconds: dict[str, float] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path) -> Report:
        """An empty one where there is no file."""
        if not path.exists():
            return cls()
        values: dict[str, Any] = json.loads(path.read_text())
        return cls(**values | {"faults": [Fault(**fault) for fault in values["faults"]]})

    def save(self, path: Path) -> None:
        """Whole or not at all."""
        part = path.with_name(f".{path.name}.part")
        part.write_text(json.dumps(asdict(self), indent=1))
        part.replace(path)

    def first(self, kind: str, seed: int) -> int:
        """The number of the case to go on with."""
        return self.next.get(f"{kind}-{seed}", 0)

    def add(self, case: Case, outcome: Outcome, seconds: float) -> None:
        """Count a case that was carried out."""
        counts = Counter(self.counts.get(case.kind, {})) + outcome.counts
        self.counts[case.kind] = dict(sorted(counts.items()))
        self.seconds[case.kind] = round(self.seconds.get(case.kind, 0.0) + seconds, 1)
        key = f"{case.kind}-{case.seed}"
        self.next[key] = max(self.next.get(key, 0), case.number + 1)
        for sentence in outcome.faults:
            self._add_fault(
                Fault(
                    case.kind, signature(sentence), sentence, str(case), outcome.size, outcome.story
                )
            )

    def merge(self, other: Report) -> None:
        """Add what another start has done."""
        for kind, counts in other.counts.items():
            both = Counter(self.counts.get(kind, {})) + Counter(counts)
            self.counts[kind] = dict(sorted(both.items()))
        for kind, seconds in other.seconds.items():
            self.seconds[kind] = round(self.seconds.get(kind, 0.0) + seconds, 1)
        for key, number in other.next.items():
            self.next[key] = max(self.next.get(key, 0), number)
        for fault in other.faults:
            self._add_fault(fault)

    def _add_fault(self, new: Fault) -> None:
        for index, known in enumerate(self.faults):
            if (known.kind, known.signature) == (new.kind, new.signature):
                smaller = min(known, new, key=lambda fault: fault.size)
                smaller.times = known.times + new.times
                self.faults[index] = smaller
                return
        self.faults.append(new)

    def done(self, kind: str) -> int:
        """Kills, or damaged inputs, of a kind."""
        return sum(self.counts.get(kind, {}).values())

    def of_kind(self, kind: str) -> Iterable[Fault]:
        return (fault for fault in self.faults if fault.kind == kind)


def signature(sentence: str) -> str:
    """A fault's kind, as far as its sentence tells it."""
    return _VARIABLE.sub("#", sentence)[:200]
