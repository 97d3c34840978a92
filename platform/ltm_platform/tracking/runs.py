"""Runs as they are listed, found by name and read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ltm.errors import first_line
from ltm_platform.compat.mlflow import DELETED
from ltm_platform.errors import UserError, nearest
from ltm_platform.storage import locations
from ltm_platform.storage.addresses import without_secrets
from ltm_platform.tracking import sqlite_file
from ltm_platform.tracking.store import URI_VARIABLE, check_answers, connect, shown_for_shell

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mlflow.entities import Metric, Run

RUN_FOLDER_TAG = "ltm.run_folder"
HOST_TAG = "ltm.host"
ERROR_TAG = "ltm.error"
WORKERS_TAG = "ltm.workers"
WAITS_TAG = "ltm.waits_for"
"""Resources that its workers wait for on a shared cluster; empty once they have started."""
EPOCH_TAG = "ltm.epoch"
"""Epochs done of epochs in all, e.g. 3/300."""
TRIALS_TAG = "ltm.trials"
"""Of a sweep: trials that ended of trials in all, e.g. 3/8."""
RESTARTS_TAG = "ltm.restarts"
CLUSTER_TAG = "ltm.cluster"
"""Address of the cluster that the run was sent to; empty for one that was not."""
SUBMISSION_TAG = "ltm.submission"
"""Its job there."""
PARENT_TAG = "mlflow.parentRunId"
RULE_TAG = "ltm.method_rule"
"""Whether the method did what its paper does on that backbone, or followed a rule of ours."""
REMOVED_TAG = "ltm.removed"
"""Of a deleted run: its artifacts and checkpoints are gone, too."""
EVALUATED_TAG = "ltm.evaluated"
"""Whose weights a run measured that trained nothing itself."""


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
    tags: dict[str, str]
    last_recorded_ms: int
    """When it last recorded a metric, or started."""


class Point(NamedTuple):
    """A metric's value at an optimizer step."""

    step: int
    value: float


def list_runs(uri: str) -> list[RunRecord]:
    """All runs of the store, the newest first.

    Raises:
        UserError: the store does not answer.
    """
    database = sqlite_file.database_of(uri)
    if database and not database.exists():
        return []
    check_answers(uri)
    return _all_runs(uri)


def _all_runs(uri: str) -> list[RunRecord]:
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
    return find_runs(uri, [name])[0]


def find_runs(uri: str, names: Sequence[str]) -> list[RunRecord]:
    """The newest run of each name. UserError as of `find_run`."""
    runs = list_runs(uri)
    newest = {run.name: run for run in reversed(runs)}
    for name in names:
        if name not in newest:
            _check_not_deleted(uri, name)
            raise UserError(
                f"there is no run {name!r} in {locations.shown(uri)}{nearest(name, newest)} "
                f"(ltm-platform runs lists them)"
            )
    return [newest[name] for name in names]


def _check_not_deleted(uri: str, name: str) -> None:
    """Raises: UserError: a run of that name, or its experiment, was deleted."""
    from mlflow.entities import ViewType

    database = sqlite_file.database_of(uri)
    if database and not database.exists():
        return
    client = connect(uri)
    experiments = client.search_experiments(view_type=ViewType.ALL)
    wanted = f"attributes.run_name = '{name}'" if "'" not in name else ""
    ids = [experiment.experiment_id for experiment in experiments]
    for run in client.search_runs(ids, wanted, run_view_type=ViewType.ALL, max_results=1):
        if run.info.run_name != name:
            return
        if REMOVED_TAG in run.data.tags:
            raise UserError(f"the run {name!r} was removed, with its checkpoints")
        of = next(e for e in experiments if e.experiment_id == run.info.experiment_id)
        if of.lifecycle_stage == DELETED:
            remedy = f"mlflow experiments restore --experiment-id {of.experiment_id}"
        else:
            remedy = f"mlflow runs restore --run-id {run.info.run_id}"
        raise UserError(
            f"the run {name!r} was deleted in MLflow's pages: restore it with "
            f"'{URI_VARIABLE}={shown_for_shell(uri)} {remedy}'"
        )


def read_curves(uri: str, run_id: str, keys: Iterable[str]) -> dict[str, list[Point]]:
    """Every value of the metrics ``keys`` in the order of their steps; [] for one without any.

    Of a step that was recorded again, as by a run that was resumed with changes, the last counts.
    """
    client = connect(uri)
    curves: dict[str, list[Point]] = {}
    for key in keys:
        rows = sorted(client.get_metric_history(run_id, key), key=lambda row: row.timestamp)
        latest = {row.step: row.value for row in rows}
        curves[key] = [Point(step, latest[step]) for step in sorted(latest)]
    return curves


def model_versions(uri: str, run_id: str) -> list[str]:
    """The versions of registered models that a run's network is, such as ``version 3 of 'vit'``."""
    client = connect(uri)
    found = client.search_model_versions(f"run_id = '{run_id}'")
    return [f"version {one.version} of the model {one.name!r}" for one in found]


def fetch_files(uri: str, run_id: str, folder: str, to: Path) -> Path | None:
    """Copy a run's artifact folder into ``to``; where it is then, or None if the run has none.

    Raises:
        UserError: they are kept where this machine cannot read.
    """
    client = connect(uri)
    try:
        if not client.list_artifacts(run_id, folder):
            return None
        return Path(client.download_artifacts(run_id, folder, str(to)))
    except Exception as error:  # whatever the place makes of it: a bucket, a server, a disk
        place = client.get_run(run_id).info.artifact_uri
        reason = without_secrets(first_line(error), place)
        raise UserError(
            f"the run's artifacts in {locations.shown(place)} cannot be read: {reason}"
        ) from None


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
        tags=dict(run.data.tags),
        last_recorded_ms=max(
            (row.timestamp for row in last_rows(run)), default=run.info.start_time
        ),
    )


def last_rows(run: Run) -> Sequence[Metric]:
    """The last value of every metric with its step and time, which ``run.data.metrics`` omits."""
    rows: Sequence[Metric] = run.data.to_proto().metrics
    return rows
