"""Runs side by side: where their jobs and their results differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ltm_platform.tracking import Point, RunRecord

CURVES = ("train/loss", "val/loss", "val/top1", "val/ema_top1")
"""The metrics of which a comparison needs every value."""

LATEST = {
    "GMACs": "model/gmacs",
    "base GMACs": "model/gmacs_base",
    "kept tokens": "model/kept_tokens",
    "params M": "model/params_m",
    "top-1 %": "val/top1",
    "EMA top-1 %": "val/ema_top1",
    "training images/s": "train/images_per_s",
    "inference images/s": "bench/images_per_s",
    "latency ms": "bench/latency_ms",
}
BEST = {"best top-1 %": "val/top1", "best EMA top-1 %": "val/ema_top1"}
_NOT_COMPARED = {"name", "tracking.uri"}


@dataclass(frozen=True, slots=True)
class Tracked:
    """A run with the curves of `CURVES`."""

    record: RunRecord
    curves: Mapping[str, Sequence[Point]]

    def best(self, key: str) -> float | None:
        """The highest value that a metric had."""
        return max((point.value for point in self.curves.get(key, ())), default=None)


@dataclass(frozen=True, slots=True)
class Column:
    """One run of a comparison."""

    name: str
    status: str
    error: str | None
    params: dict[str, str | None]
    """The fields of the job in which the runs differ."""
    figures: dict[str, float | None]
    """By the titles of `LATEST` and `BEST`."""


def compare(runs: Sequence[Tracked]) -> list[Column]:
    """A column a run, in their order; all have the same keys."""
    differing = _differing([run.record.params for run in runs])
    return [
        Column(
            name=run.record.name,
            status=run.record.status,
            error=run.record.error,
            params={key: run.record.params.get(key) for key in differing},
            figures={
                **{title: run.record.metrics.get(key) for title, key in LATEST.items()},
                **{title: run.best(key) for title, key in BEST.items()},
            },
        )
        for run in runs
    ]


def _differing(params: Sequence[Mapping[str, str]]) -> list[str]:
    keys = dict.fromkeys(key for job in params for key in job if key not in _NOT_COMPARED)
    return [key for key in keys if len({job.get(key) for job in params}) > 1]
