"""A new run in the store, in an experiment that is made when there is none of its name."""

from __future__ import annotations

import platform
import time
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING

from ltm_platform.compat.mlflow import DELETED
from ltm_platform.interrupts import INTERRUPTED_S, interrupts_ignored
from ltm_platform.storage import locations
from ltm_platform.tracking import sqlite_file
from ltm_platform.tracking.provenance import provenance
from ltm_platform.tracking.runs import HOST_TAG, PARENT_TAG, RUN_FOLDER_TAG
from ltm_platform.tracking.store import deleted_experiment

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mlflow import MlflowClient

    from ltm_platform.tracking.retry import RetryingClient


def create_run(
    client: RetryingClient, uri: str, experiment: str, name: str, folder: Path, parent: str | None
) -> str:
    """The id of a new run. One whose creation was interrupted is KILLED, and one whose creation
    went unanswered is not created twice."""
    tags = {RUN_FOLDER_TAG: str(folder), HOST_TAG: platform.node()}
    # A trial is made by a worker of Ray, which nobody typed.
    tags |= {PARENT_TAG: parent} if parent else provenance()
    experiment_id = _experiment_id(client, uri, experiment)
    began_ms = time.time_ns() // 10**6
    attempts = count()

    def create(client: MlflowClient) -> str:
        if next(attempts) and (found := _found(client, experiment_id, began_ms, tags)):
            return found
        run = client.create_run(experiment_id, began_ms, tags, name)
        return str(run.info.run_id)

    try:
        return client.call(create)
    except (KeyboardInterrupt, SystemExit):
        client.limit_s = INTERRUPTED_S
        with interrupts_ignored(), suppress(Exception):  # of a store that is away
            if made := client.call(_found, experiment_id, began_ms, tags):
                client.set_terminated(made, "KILLED")
        raise


def _found(
    client: MlflowClient, experiment_id: str, began_ms: int, tags: Mapping[str, str]
) -> str | None:
    """The run that began then and has these tags."""
    for run in client.search_runs([experiment_id], f"attributes.start_time = {began_ms}"):
        if tags.items() <= run.data.tags.items():
            return str(run.info.run_id)
    return None


def _experiment_id(client: RetryingClient, uri: str, name: str) -> str:
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        location = None  # a server knows its own
        if not uri.startswith(("http://", "https://")):
            database = sqlite_file.database_of(uri)
            folder = database.parent if database else locations.home()
            location = (folder / "artifacts" / name).as_uri()
        try:
            return client.create_experiment(name, artifact_location=location)
        except MlflowException:  # another run created it a moment ago
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    if experiment.lifecycle_stage == DELETED:
        raise deleted_experiment(uri, name, experiment.experiment_id)
    return experiment.experiment_id
