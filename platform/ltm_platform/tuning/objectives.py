"""The objectives of a sweep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ltm.errors import quoted
from ltm_platform.errors import UserError, nearest, typed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Direction = Literal["max", "min"]

_DIRECTIONS: dict[str, Direction] = {"max": "max", "min": "min"}
METRICS: dict[str, Direction] = {
    "val/top1": "max",
    "val/top5": "max",
    "val/loss": "min",
    "val/ema_top1": "max",
    "ib/loss": "min",
    "train/images_per_s": "max",
    "model/gmacs": "min",
    "model/gmacs_no_attention_matmul": "min",
    "model/params_m": "min",
    "bench/latency_ms": "min",
    "bench/images_per_s": "max",
}
"""A metric that trials are compared by, and its direction."""


@dataclass(frozen=True, slots=True)
class SweepObjective:
    metric: str
    direction: Direction

    @property
    def every_epoch(self) -> bool:
        """Whether it is measured after every epoch, so that a scheduler can use it."""
        return self.metric.startswith(("val/", "train/", "ib/"))

    def better(self, one: float, other: float) -> bool:
        return one > other if self.direction == "max" else one < other

    def of(self, metrics: Mapping[str, float]) -> float | None:
        return metrics.get(self.metric)

    def __str__(self) -> str:
        return f"{self.metric}:{self.direction}"


def read_objectives(texts: Iterable[str]) -> tuple[SweepObjective, ...]:
    """``METRIC`` or ``METRIC:max|min``; without any, ``val/top1``.

    Raises:
        UserError: there is no such metric or direction, or one is named twice.
    """
    found: dict[str, SweepObjective] = {}
    for text in texts:
        metric, colon, direction = text.partition(":")
        if metric not in METRICS:
            raise UserError(
                f"--objective {typed(text)}: {quoted(metric)} is no metric"
                f"{nearest(metric, METRICS)} (allowed: {', '.join(METRICS)})"
            )
        if colon and direction not in _DIRECTIONS:
            raise UserError(
                f"--objective {typed(text)}: {quoted(direction)} is no direction: "
                f"write {metric}:max or {metric}:min"
            )
        if metric in found:
            raise UserError(f"--objective {typed(text)}: {metric} is given twice")
        found[metric] = SweepObjective(metric, _DIRECTIONS.get(direction, METRICS[metric]))
    return tuple(found.values()) or (SweepObjective("val/top1", "max"),)
