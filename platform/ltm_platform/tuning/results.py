"""What the trials of a sweep show: the best, the trade-offs, and which field mattered."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import mean
from typing import TYPE_CHECKING, Any, Literal

from ltm_platform.tuning.params import FOLD

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ltm_platform.tuning.objectives import SweepObjective

State = Literal["waiting", "running", "finished", "stopped early", "failed"]


@dataclass(frozen=True, slots=True)
class TrialResult:
    """The latest state of a trial."""

    name: str
    values: Mapping[str, Any]
    """Values of the fields that vary."""
    state: State
    epoch: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    """The latest value of each metric."""
    error: str | None = None

    @property
    def ended(self) -> bool:
        return self.state in ("finished", "stopped early", "failed")


def averaged(trials: Sequence[TrialResult]) -> list[TrialResult]:
    """Trials that differ in their fold alone as one, with the means of their metrics.

    It has finished when all of them have. Without folds the trials are as they were.
    """
    groups: dict[str, list[TrialResult]] = {}
    for trial in trials:
        if FOLD not in trial.values:
            return list(trials)
        groups.setdefault(repr(_without_fold(trial)), []).append(trial)
    return [_mean(group) for group in groups.values()]


def _without_fold(trial: TrialResult) -> dict[str, Any]:
    return {field: value for field, value in trial.values.items() if field != FOLD}


def _mean(group: Sequence[TrialResult]) -> TrialResult:
    common = set.intersection(*(set(trial.metrics) for trial in group))
    open_states = [trial.state for trial in group if trial.state != "finished"]
    return TrialResult(
        name=f"{group[0].name} and {len(group) - 1} more folds",
        values=_without_fold(group[0]),
        state=open_states[0] if open_states else "finished",
        epoch=min(trial.epoch for trial in group),
        metrics={key: mean(trial.metrics[key] for trial in group) for key in sorted(common)},
    )


def best(trials: Sequence[TrialResult], objectives: Sequence[SweepObjective]) -> TrialResult | None:
    """The finished trial that is best in the first objective, and among equals in the next."""
    judged = [t for t in trials if t.state == "finished" and _scores(t, objectives) is not None]
    return max(judged, key=lambda trial: _scores(trial, objectives) or (), default=None)


def _scores(trial: TrialResult, objectives: Sequence[SweepObjective]) -> tuple[float, ...] | None:
    """Larger is better; None where one was not measured."""
    scores = []
    for objective in objectives:
        value = objective.of(trial.metrics)
        if value is None:
            return None
        scores.append(value if objective.direction == "max" else -value)
    return tuple(scores)


def front(trials: Sequence[TrialResult], objectives: Sequence[SweepObjective]) -> list[TrialResult]:
    """The finished trials that no other beats in one objective without losing in another.

    In the order of the last objective, its best value first.
    """
    judged = [
        (scores, trial)
        for trial in trials
        if trial.state == "finished" and (scores := _scores(trial, objectives)) is not None
    ]
    kept = [
        (scores, trial)
        for scores, trial in judged
        if not any(_dominates(other, scores) for other, _ in judged)
    ]
    return [trial for _, trial in sorted(kept, key=lambda pair: pair[0][::-1], reverse=True)]


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))


def failures(trials: Sequence[TrialResult]) -> dict[str, list[str]]:
    """Why trials failed, each reason with the names of its trials."""
    reasons: dict[str, list[str]] = {}
    for trial in trials:
        if trial.state == "failed":
            reasons.setdefault(trial.error or "unknown", []).append(trial.name)
    return reasons
