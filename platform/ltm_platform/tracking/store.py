"""The store that runs are kept in: its address, and the connection to it."""

from __future__ import annotations

import json
import os
import threading
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

from filelock import FileLock

from ltm_platform.compat.mlflow import (
    DELETED,
    EXPERIMENT_PATH,
    HEALTH_PATH,
    is_locked,
    quiet_store,
    tracking_client,
)
from ltm_platform.errors import UserError
from ltm_platform.storage import addresses, locations
from ltm_platform.tracking import sqlite_file
from ltm_platform.tracking.retry import RetryingClient, refusal

if TYPE_CHECKING:
    from mlflow import MlflowClient

URI_VARIABLE = "MLFLOW_TRACKING_URI"
HEALTH_TIMEOUT_S = 15.0


def tracking_uri(configured: str | None = None) -> str:
    """The job's ``tracking.uri``, else ``MLFLOW_TRACKING_URI``, else this user's sqlite store.

    A relative sqlite path is made absolute here, once: workers run in folders of their own.
    """
    uri = (
        configured or os.environ.get(URI_VARIABLE) or f"sqlite:///{locations.home() / 'mlflow.db'}"
    )
    prefix = "sqlite:///"
    if uri.startswith(prefix) and not Path(uri.removeprefix(prefix)).is_absolute():
        return prefix + str(Path(uri.removeprefix(prefix)).resolve())
    if "://" not in uri or uri.startswith("file:"):
        raise UserError(
            f"tracking.uri is {addresses.shown(uri)!r}, but must be a database such as "
            f"sqlite:////path/mlflow.db or a server such as http://host:5000: MLflow keeps no "
            f"runs in plain folders any more"
        )
    return uri


def connect(uri: str) -> RetryingClient:
    """The store, which is made if it is an sqlite file that is not there. A lock on that file is
    waited for.

    Raises:
        UserError: it cannot be opened.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # By default a call waits two minutes for a server that is down, and notices late that it is
    # back; what may wait does so in `retry`.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    database = sqlite_file.database_of(uri)
    if database:
        sqlite_file.ensure(database)
    quiet_store()
    try:
        client = tracking_client(uri)
        if database:
            _begin(client, database)
    except Exception as error:
        if told := refusal(error, uri):
            raise told from error
        raise
    limit_s = sqlite_file.LOCKED_S if database else 0.0
    return RetryingClient(client, uri, limit_s, retried=is_locked)


def _begin(client: MlflowClient, database: Path) -> None:
    """Open an sqlite store: MLflow gives it its first experiment, which two processes at once
    would both do."""
    if sqlite_file.has_experiments(database):
        client.search_experiments(max_results=1)
        return
    with FileLock(f"{database}.lock"):
        client.search_experiments(max_results=1)


def connect_meanwhile(uri: str) -> threading.Thread:
    """Import MLflow and open the store in a thread, since both take seconds; wait with ``join``.

    An error there occurs again, and is reported, when a run is opened.
    """

    def connect_quietly() -> None:
        with suppress(Exception):
            connect(uri)

    thread = threading.Thread(target=connect_quietly, name="open-store", daemon=True)
    thread.start()
    return thread


def check_usable(uri: str, experiment: str | None = None) -> None:
    """Without importing MLflow, which takes seconds.

    Raises:
        UserError: the tracking server does not answer, the sqlite file is damaged or locked, or the
            experiment was deleted. Another database is not checked.
    """
    database = sqlite_file.database_of(uri)
    deleted = None
    if uri.startswith(("http://", "https://")):
        check_answers(uri)
        deleted = experiment and _deleted_there(uri, experiment)
    elif database and database.exists():
        sqlite_file.examine(database)
        deleted = experiment and sqlite_file.deleted_experiment(database, experiment)
    if experiment and deleted:
        raise deleted_experiment(uri, experiment, deleted)


def check_answers(uri: str) -> None:
    """Raises: UserError: it is a server's address where none answers, within `HEALTH_TIMEOUT_S`."""
    if uri.startswith(("http://", "https://")) and not answers(uri):
        variable = os.environ.get(URI_VARIABLE) == uri
        source = f"the variable {URI_VARIABLE}" if variable else "tracking.uri or --tracking-uri"
        raise UserError(
            f"the tracking store {locations.shown(uri)} does not answer: no MLflow server answers "
            f"at that address, which is from {source}; start it (mlflow server), name another, or "
            f"leave it out for a store of this user's own"
        )


def deleted_experiment(uri: str, name: str, number: str) -> UserError:
    """The sentence for a job whose experiment was deleted in MLflow's pages."""
    return UserError(
        f"tracking.experiment is {name!r}, which was deleted in MLflow: restore it with "
        f"'{URI_VARIABLE}={shown_for_shell(uri)} mlflow experiments restore --experiment-id "
        f"{number}', or name another one with --set tracking.experiment=NAME",
        {"tracking.experiment": name},
    )


def shown_for_shell(uri: str) -> str:
    """The address as a word of a command; a shell would not replace ``~`` in it."""
    return uri if sqlite_file.database_of(uri) else locations.shown(uri)


def _deleted_there(uri: str, experiment: str) -> str | None:
    """The id of a server's experiment if it was deleted; None if it was not, or we may not ask."""
    query = urlencode({"experiment_name": experiment})
    address = f"{uri.rstrip('/')}{EXPERIMENT_PATH}?{query}"
    try:
        with urlopen(address, timeout=HEALTH_TIMEOUT_S) as answer:
            found = json.load(answer)["experiment"]
    except (OSError, ValueError, KeyError):
        return None
    return str(found["experiment_id"]) if found["lifecycle_stage"] == DELETED else None


def answers(address: str) -> bool:
    try:
        with urlopen(f"{address.rstrip('/')}{HEALTH_PATH}", timeout=HEALTH_TIMEOUT_S):
            return True
    except HTTPError:  # it refuses, but it is there
        return True
    except (OSError, HTTPException):
        return False
