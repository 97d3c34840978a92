"""A new run in the store, in an experiment that is made when there is none of its name."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from ltm_platform.compat.mlflow import DELETED
from ltm_platform.storage import locations
from ltm_platform.tracking import sqlite_file
from ltm_platform.tracking.runs import HOST_TAG, PARENT_TAG, RUN_FOLDER_TAG
from ltm_platform.tracking.store import deleted_experiment

if TYPE_CHECKING:
    from pathlib import Path

    from ltm_platform.tracking.retry import RetryingClient


def create_run(
    client: RetryingClient, uri: str, experiment: str, name: str, folder: Path, parent: str | None
) -> str:
    """The id of a new run."""
    tags = {RUN_FOLDER_TAG: str(folder), HOST_TAG: platform.node()}
    if parent:
        tags[PARENT_TAG] = parent
    run = client.create_run(_experiment_id(client, uri, experiment), run_name=name, tags=tags)
    return str(run.info.run_id)


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
