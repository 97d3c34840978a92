"""Recorded runs, made up: reports are functions of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from ltm_platform.report.comparison import Tracked
from ltm_platform.tracking import Point, RunRecord

MakeRun = Callable[..., Tracked]


@pytest.fixture
def make_run() -> MakeRun:
    """A run by its name, its job's fields (``model_method=...`` for model.method) and curves."""

    def make(
        name: str,
        curves: Mapping[str, list[tuple[int, float]]] | None = None,
        *,
        status: str = "FINISHED",
        tags: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
        job: str = "job",
        **params: Any,
    ) -> Tracked:
        points = {key: [Point(*one) for one in found] for key, found in (curves or {}).items()}
        latest = {key: found[-1].value for key, found in points.items() if found}
        record = RunRecord(
            name=name,
            status=status,
            params={"name": job}
            | {key.replace("_", ".", 1): str(value) for key, value in params.items()},
            metrics={**latest, **(metrics or {})},
            experiment="ltm-platform",
            run_id=f"id-of-{name}",
            started_ms=1_700_000_000_000,
            ended_ms=None,
            folder=None,
            error=None,
            tags=dict(tags or {}),
            last_recorded_ms=1_700_000_000_000,
        )
        return Tracked(record, points)

    return make
