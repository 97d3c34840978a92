"""What is added to a run after it was carried out."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ltm_platform.tracking.runs import ERROR_TAG
from ltm_platform.tracking.store import connect

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def add_curve(
    uri: str,
    run_id: str,
    curve: Mapping[int, Mapping[str, float]],
    files: Sequence[Path],
    to: str,
    source: str,
) -> None:
    """Record metrics by their steps, and files in the artifact folder ``to``.

    ``source`` is what was measured: of the same, what the run holds at a step already is not
    recorded again, since MLflow would draw both.
    """
    from mlflow.entities import Metric, RunTag

    client = connect(uri)
    now = int(time.time() * 1000)
    keys = {key for metrics in curve.values() for key in metrics}
    tag = f"ltm.{to}_of"
    known: set[tuple[str, int]] = set()
    if client.get_run(run_id).data.tags.get(tag) == source:
        known = {(key, row.step) for key in keys for row in client.get_metric_history(run_id, key)}
    rows = [
        Metric(key, value, now, step)
        for step, metrics in curve.items()
        for key, value in metrics.items()
        if (key, step) not in known
    ]
    if rows:
        client.log_batch(run_id, metrics=rows, tags=[RunTag(tag, source)])
    for file in files:
        client.log_artifact(run_id, str(file), to)


def end_run(uri: str, run_id: str, status: str, reason: str, ended_ms: int) -> None:
    """Give a run that is RUNNING no more its true status, and the reason as its error."""
    client = connect(uri)
    client.set_tag(run_id, ERROR_TAG, reason)
    client.set_terminated(run_id, status, end_time=ended_ms)
