"""What is done in a case, drawn from the campaign's seed and the case's number alone."""

from __future__ import annotations

import random
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Stage = Literal["start", "training", "checkpoint", "evaluation", "end"]
_STAGES: Mapping[Stage, int] = {
    "start": 3,
    "training": 3,
    "checkpoint": 4,
    "evaluation": 2,
    "end": 1,
}
"""How often each is drawn; a hit at the end needs all that comes before."""
MOST_HITS = 10
"""Of one run, before it is resumed to its end."""
_SIGNALS = {
    signal.SIGKILL: 6,
    signal.SIGTERM: 3,
    signal.SIGINT: 3,
    signal.SIGSTOP: 2,
}
_OCCURRENCES = {1: 6, 2: 3, 3: 1, 4: 1}
_LONGEST_DELAY_S: Mapping[Stage, float] = {
    "start": 0.6,
    "training": 0.2,
    "checkpoint": 0.05,
    "evaluation": 0.1,
    "end": 0.8,
}
"""About how long a stage of the small runs takes."""


@dataclass(frozen=True, slots=True)
class Case:
    """One case of a kind: ``kill-7-123`` is number 123 of the kills of seed 7."""

    kind: str
    seed: int
    number: int

    def __str__(self) -> str:
        return f"{self.kind}-{self.seed}-{self.number}"

    @classmethod
    def parse(cls, text: str) -> Case:
        """Raises: ValueError: it is no case's name."""
        kind, seed, number = text.rsplit("-", 2)
        return cls(kind, int(seed), int(number))

    def draw(self) -> random.Random:
        """The random numbers of this case."""
        return random.Random(str(self))


@dataclass(frozen=True, slots=True)
class Hit:
    """A signal at some moment of a command."""

    signal: signal.Signals
    stage: Stage
    occurrence: int
    """Which time the command comes to that stage, from 1."""
    files: int | None
    """At this file operation from there on, counted from 1; None: after a delay."""
    delay_s: float
    victim: Literal["command", "decoder"] = "command"
    pause_s: float = 0.05
    """How long SIGSTOP holds it."""
    then_kill: bool = False
    """After SIGSTOP it is killed; else it continues."""

    def __str__(self) -> str:
        when = f"{self.delay_s:.3f} s" if self.files is None else f"file operation {self.files}"
        then = " then SIGKILL" if self.then_kill else ""
        return (
            f"{self.signal.name}{then} to {self.victim} in {self.stage} {self.occurrence}, {when}"
        )


def hits(draw: random.Random, *, decoders: bool) -> list[Hit]:
    """The hits of one run, in order; ``decoders``: it has processes that decode images."""
    return [_hit(draw, decoders=decoders) for _ in range(draw.randint(2, MOST_HITS))]


def _hit(draw: random.Random, *, decoders: bool) -> Hit:
    number = _drawn(draw, _SIGNALS)
    stage = _drawn(draw, _STAGES)
    decoder = decoders and stage != "start" and draw.random() < 0.25
    if decoder:
        number = draw.choice([signal.SIGKILL, signal.SIGSTOP])
    return Hit(
        signal=number,
        stage=stage,
        occurrence=1 if stage in ("start", "end") else _drawn(draw, _OCCURRENCES),
        files=None if decoder or draw.random() < 0.5 else draw.randint(1, 24),
        delay_s=draw.random() * _LONGEST_DELAY_S[stage],
        victim="decoder" if decoder else "command",
        pause_s=draw.uniform(0.01, 0.2),
        then_kill=not decoder and number == signal.SIGSTOP and draw.random() < 0.5,
    )


def _drawn(draw: random.Random, weights: Mapping[Any, int]) -> Any:
    (one,) = draw.choices(list(weights), weights=list(weights.values()))
    return one
