"""The store that runs are kept in: its address, and the connection to it."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.request import urlopen

from filelock import FileLock

from ltm_platform.compat.mlflow import HEALTH_PATH
from ltm_platform.errors import UserError
from ltm_platform.storage import locations

if TYPE_CHECKING:
    from mlflow import MlflowClient

URI_VARIABLE = "MLFLOW_TRACKING_URI"
HEALTH_TIMEOUT_S = 5.0


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
            f"tracking.uri is {locations.shown(uri)!r}, but must be a database such as "
            f"sqlite:////path/mlflow.db or a server such as http://host:5000: MLflow keeps no "
            f"runs in plain folders any more"
        )
    return uri


def connect(uri: str) -> MlflowClient:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # By default a call waits two minutes for a server that is down, and notices late that it is
    # back; what may wait does so in `retry`.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    from mlflow import MlflowClient

    if not uri.startswith("sqlite:"):
        return MlflowClient(tracking_uri=uri)
    database = Path(uri.removeprefix("sqlite:///"))
    database.parent.mkdir(parents=True, exist_ok=True)
    # Two processes that create the same database at once would both try to migrate it.
    with FileLock(f"{database}.lock"):
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
    return client


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


def check_reachable(uri: str) -> None:
    """Raises: UserError: the tracking server does not answer. A database is not checked."""
    if uri.startswith(("http://", "https://")) and not answers(uri):
        raise UserError(
            f"tracking.uri is {locations.shown(uri)!r}, but no MLflow server answers there: "
            f"start it (mlflow server) or leave tracking.uri and {URI_VARIABLE} out"
        )


def answers(address: str) -> bool:
    try:
        with urlopen(f"{address.rstrip('/')}{HEALTH_PATH}", timeout=HEALTH_TIMEOUT_S):
            return True
    except HTTPError:  # it refuses, but it is there
        return True
    except OSError:
        return False
