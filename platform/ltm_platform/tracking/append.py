"""What is done to a run after it has ended."""

from __future__ import annotations

import time
from itertools import count
from typing import TYPE_CHECKING

from ltm_platform.compat.mlflow import remove_artifacts
from ltm_platform.tracking.runs import ERROR_TAG, REMOVED_TAG
from ltm_platform.tracking.store import check_answers, connect

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def add_curve(
    uri: str,
    run_id: str,
    curve: Mapping[int, Mapping[str, float]],
    files: Sequence[Path],
    group: str,
    source: str,
) -> str:
    """Record metrics by their steps as ``group/...``, and files in the artifact folder ``group``.

    ``source`` is what was measured. MLflow forgets no value and would draw those of two sources as
    one curve, so another source than the group's has a group of its own, ``group_2`` and so on. Of
    the same, what the run holds at a step already is not recorded again.

    Returns the group; the tag ``ltm.GROUP_of`` of the run has its source.
    """
    from mlflow.entities import Metric, RunTag

    client = connect(uri)
    tags = client.get_run(run_id).data.tags
    groups = (group if n == 1 else f"{group}_{n}" for n in count(1))
    own = next(one for one in groups if tags.get(f"ltm.{one}_of", source) == source)
    now = int(time.time() * 1000)
    keys = {key for metrics in curve.values() for key in metrics}
    known = {
        (key, row.step) for key in keys for row in client.get_metric_history(run_id, f"{own}/{key}")
    }
    rows = [
        Metric(f"{own}/{key}", value, now, step)
        for step, metrics in curve.items()
        for key, value in metrics.items()
        if (key, step) not in known
    ]
    client.log_batch(run_id, metrics=rows, tags=[RunTag(f"ltm.{own}_of", source)])
    for file in files:
        client.log_artifact(run_id, str(file), own)
    return own


def add_files(uri: str, run_id: str, files: Sequence[Path], folder: str) -> None:
    """Log files to an artifact folder of a run, in the place of those of their names."""
    client = connect(uri)
    for file in files:
        client.log_artifact(run_id, str(file), folder)


def end_run(uri: str, run_id: str, status: str, reason: str, ended_ms: int) -> None:
    """Give a run that is RUNNING no more its true status, and the reason as its error."""
    client = connect(uri)
    client.set_tag(run_id, ERROR_TAG, reason)
    client.set_terminated(run_id, status, end_time=ended_ms)


def remove_run(uri: str, run_id: str) -> None:
    """Delete a run with its artifacts. MLflow keeps its parameters and metrics out of sight until
    ``mlflow gc``.

    Raises:
        UserError: the store does not answer.
    """
    check_answers(uri)
    client = connect(uri)
    artifacts = client.get_run(run_id).info.artifact_uri
    client.set_tag(run_id, REMOVED_TAG, "true")
    client.delete_run(run_id)
    remove_artifacts(artifacts)
