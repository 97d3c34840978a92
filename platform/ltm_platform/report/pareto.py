"""One network at many compression ratios."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

DEFAULT_RANGE = (0.5, 1.0)


class Scored(Protocol):
    """An evaluation's result for one kind of weights at one ratio."""

    @property
    def kind(self) -> str: ...
    @property
    def ratio(self) -> float | None: ...
    @property
    def gmacs(self) -> float: ...
    @property
    def top1(self) -> float: ...
    @property
    def top5(self) -> float: ...
    @property
    def loss(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Measurement:
    """Accuracy and cost at one ratio."""

    ratio: float
    gmacs: float
    top1: float
    top5: float
    loss: float
    best: bool
    """It lies on the Pareto front: no other ratio of the curve is better in one and no worse in
    the other."""


def ratios(elastic: tuple[float, float] | None, points: int) -> list[float]:
    """``points`` ratios, two or more, evenly over the range that the network was trained at.

    Rounded to a permille, by which MLflow knows them.
    """
    low, high = elastic or DEFAULT_RANGE
    width = (high - low) / (points - 1)
    return sorted({round(low + width * n, 3) for n in range(points)})


def curves(scores: Iterable[Scored]) -> dict[str, Sequence[Measurement]]:
    """A curve for each kind of weights, the cheapest first."""
    of_kind: dict[str, list[Scored]] = {}
    for score in scores:
        of_kind.setdefault(score.kind, []).append(score)
    return {kind: _curve(found) for kind, found in of_kind.items()}


def _curve(scores: Sequence[Scored]) -> list[Measurement]:
    return [
        Measurement(
            ratio=1.0 if score.ratio is None else score.ratio,
            gmacs=score.gmacs,
            top1=score.top1,
            top5=score.top5,
            loss=score.loss,
            best=not any(_beats(other, score) for other in scores),
        )
        for score in sorted(scores, key=lambda score: score.gmacs)
    ]


def _beats(one: Scored, other: Scored) -> bool:
    no_worse = one.top1 >= other.top1 and one.gmacs <= other.gmacs
    return no_worse and (one.top1 > other.top1 or one.gmacs < other.gmacs)


def metrics(curves: Mapping[str, Sequence[Measurement]]) -> dict[int, dict[str, float]]:
    """For MLflow: the ratio in permille as the step -> metrics of the weights and the EMA."""
    steps: dict[int, dict[str, float]] = {}
    for kind, curve in curves.items():
        prefix = "ema_" if kind == "EMA" else ""
        for one in curve:
            step = steps.setdefault(round(1000 * one.ratio), {})
            step["gmacs"] = one.gmacs
            for key in ("top1", "top5", "loss"):
                step[prefix + key] = getattr(one, key)
    return steps
