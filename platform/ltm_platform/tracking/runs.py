"""Runs as they are listed and found by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ltm_platform.errors import UserError, nearest
from ltm_platform.tracking.store import connect

if TYPE_CHECKING:
    from mlflow.entities import Run

RUN_FOLDER_TAG = "ltm.run_folder"
ERROR_TAG = "ltm.error"
PARENT_TAG = "mlflow.parentRunId"


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A recorded run as it is listed."""

    name: str
    status: str
    params: dict[str, str]
    metrics: dict[str, float]
    experiment: str
    run_id: str
    started_ms: int
    ended_ms: int | None
    folder: str | None
    error: str | None


def list_runs(uri: str) -> list[RunRecord]:
    """All runs of the store, the newest first."""
    if uri.startswith("sqlite:") and not Path(uri.removeprefix("sqlite:///")).exists():
        return []
    client = connect(uri)
    experiments = {e.experiment_id: e.name for e in client.search_experiments()}
    records: list[RunRecord] = []
    token: str | None = None
    while True:
        page = client.search_runs(
            list(experiments), order_by=["attributes.start_time DESC"], page_token=token
        )
        records += [_record(run, experiments[run.info.experiment_id]) for run in page]
        token = page.token
        if not token:
            return records


def find_run(uri: str, name: str) -> RunRecord:
    """The newest run of that name.

    Raises:
        UserError: there is none; the nearest name is given.
    """
    runs = list_runs(uri)
    for run in runs:
        if run.name == name:
            return run
    hint = nearest(name, [run.name for run in runs])
    raise UserError(f"there is no run {name!r} in {uri}{hint} (ltm-platform runs lists them)")


def _record(run: Run, experiment: str) -> RunRecord:
    return RunRecord(
        name=run.info.run_name,
        status=run.info.status,
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        experiment=experiment,
        run_id=run.info.run_id,
        started_ms=run.info.start_time,
        ended_ms=None if run.info.status == "RUNNING" else run.info.end_time,
        folder=run.data.tags.get(RUN_FOLDER_TAG),
        error=run.data.tags.get(ERROR_TAG),
    )
