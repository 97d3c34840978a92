"""MLflow: the names, codes and addresses that its public interface leaves out."""

from __future__ import annotations

import json
import logging
import re
import sqlite3
from contextlib import closing, contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from requests.exceptions import RequestException

from ltm_platform.temporary import temporary_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlflow import MlflowClient

HEALTH_PATH = "/health"
"""Of a server: what answers once it serves, without a login."""
_IMAGES_FOLDER = "images"
"""Among a run's artifacts: where ``log_image`` writes."""
_LAST_OF_IMAGE = ".webp"
"""What ``log_image`` writes last, after the image in full size."""
DATA_FOLDER, CODE_FOLDER = "data", "code"
"""In a model's folder: what ``mlflow.pytorch.save_model`` calls its pickle's folder and that of
``code_paths``."""
CONDA_FILE, PYTHON_FILE = "conda.yaml", "python_env.yaml"
"""In a model's folder: the environments that it writes."""
REVISION_QUERY = "SELECT version_num FROM alembic_version"
"""Of a database: the version of its tables."""
EXPERIMENT_QUERY = "SELECT experiment_id, lifecycle_stage FROM experiments WHERE name = ?"
DELETED = "deleted"
"""The stage of what was deleted in the user interface and can be restored."""
EXPERIMENT_PATH = "/api/2.0/mlflow/experiments/get-by-name"
"""Of a server."""
STORE_LOGGER = "mlflow.store.db.utils"
"""Prints a traceback for every error of a database, which it raises, too."""


def tracking_client(uri: str) -> MlflowClient:
    """MLflow's own, whose temporary files go when it is interrupted, too, and which logs an image
    once although the call is repeated, since the store or the process was away for a part of it."""
    from mlflow import MlflowClient
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_IMAGES

    _reopen_databases()

    class Client(MlflowClient):
        @contextmanager
        def _log_artifact_helper(self, run_id: str, artifact_file: str) -> Iterator[str]:
            with temporary_folder("ltm-artifact-") as folder:
                path = PurePosixPath(artifact_file)
                yield str(folder / path.name)
                parent = None if path.parent == PurePosixPath() else str(path.parent)
                self.log_artifact(run_id, str(folder / path.name), parent)

        def log_image(self, run_id: str, image: Any, *, key: str, step: int) -> None:
            files = _files_of_image(self, run_id, key, step)
            if any(path.endswith(_LAST_OF_IMAGE) for path in files):
                self.set_tag(run_id, MLFLOW_LOGGED_IMAGES, True)
                return
            for left in files:  # of a call that was cut off
                repository = get_artifact_repository(self.get_run(run_id).info.artifact_uri)
                repository.delete_artifacts(left)
            super().log_image(run_id, image, key=key, step=step, synchronous=True)

    return Client(tracking_uri=uri)


@cache
def _reopen_databases() -> None:
    """After an error that is no lock, an sqlite file is opened anew by the next call: another may
    be in its place. SQLAlchemy would keep the connection to the one that has gone."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine, ExceptionContext

    def disconnect(context: ExceptionContext) -> None:
        error, engine = context.original_exception, context.engine
        is_file = engine is not None and engine.url.database is not None
        if is_file and isinstance(error, sqlite3.OperationalError):
            context.is_disconnect = not is_locked(error)

    event.listen(Engine, "handle_error", disconnect)


@contextmanager
def requirements_as_given() -> Iterator[None]:
    """In the block MLflow does not compare the requirements of a model that it saves with what is
    installed: for that it reads the file lists of all packages, in seconds."""
    from mlflow.utils import environment

    names, check = vars(environment), "warn_dependency_requirement_mismatches"
    before = names[check]
    names[check] = lambda _: None
    try:
        yield
    finally:
        names[check] = before


def remove_unfinished_uploads(artifacts: str) -> None:
    """Remove what a killed process left of files that it was copying to a run's artifacts.

    ``artifacts``: their address; of a folder here, since a server receives them whole.
    """
    from mlflow.store.artifact.local_artifact_repo import _TEMP_ARTIFACT_PREFIX
    from mlflow.utils.file_utils import local_file_uri_to_path

    if artifacts.startswith(("file:", "/")):
        for left in Path(local_file_uri_to_path(artifacts)).rglob(f"{_TEMP_ARTIFACT_PREFIX}*"):
            left.unlink(missing_ok=True)


def remove_artifacts(artifacts: str) -> None:
    """Remove a run's artifacts, which stay when it is deleted; ``artifacts``: their address.

    The public way is ``mlflow gc``, for whole stores and on the machine that has them.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    get_artifact_repository(artifacts).delete_artifacts()


def make_tables(database: Path) -> None:
    """Write a new sqlite database with MLflow's tables, as it does when it opens an empty one.

    It would do so table by table in the file, in seconds, and never finish what it was killed at.
    """
    import sqlalchemy
    from mlflow.store.db.utils import _initialize_tables
    from sqlalchemy.pool import StaticPool

    for name in (STORE_LOGGER, "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    memory = sqlalchemy.create_engine(
        "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
    )
    try:
        _initialize_tables(memory)
        with closing(sqlite3.connect(database)) as file, closing(memory.raw_connection()) as tables:
            tables.cursor().connection.backup(file)
    finally:
        memory.dispose()


@cache
def revisions() -> tuple[str, frozenset[str]]:
    """The version of the tables that this MLflow wants, and all that it knows."""
    spec = find_spec("mlflow")
    assert spec
    assert spec.origin
    # Read, since to import them is to import MLflow, which takes seconds.
    folder = Path(spec.origin).parent / "store" / "db_migrations" / "versions"
    texts = [file.read_text() for file in folder.glob("*.py")]
    known, older = (
        {found[1] for text in texts if (found := re.search(rf'^{name} = "(\w+)"', text, re.M))}
        for name in ("revision", "down_revision")
    )
    (newest,) = known - older
    return newest, frozenset(known)


def quiet_store() -> None:
    """What goes wrong with a database is raised; it is not printed as a traceback besides."""
    logging.getLogger(STORE_LOGGER).setLevel(logging.CRITICAL)


def is_locked(error: BaseException) -> bool:
    """Whether another program had the sqlite file locked."""
    return any(name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")) for name in _sqlite(error))


def is_full(error: BaseException) -> bool:
    """Whether there was no room left for the sqlite file."""
    return any(name.startswith("SQLITE_FULL") for name in _sqlite(error))


def is_damaged(error: BaseException) -> bool:
    """Whether what the sqlite file holds is no database, or no more."""
    return any(name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) for name in _sqlite(error))


def is_deleted(error: BaseException) -> bool:
    """Whether the run, or its experiment, was deleted in the user interface."""
    return "must be in the 'active' state" in str(error)


def _sqlite(error: BaseException) -> Iterator[str]:
    """The names of sqlite's errors behind one of MLflow's, by way of sqlalchemy's."""
    behind: BaseException | None = error
    while behind is not None:
        for one in (behind, getattr(behind, "orig", None)):
            if isinstance(one, sqlite3.Error) and one.sqlite_errorname:
                yield one.sqlite_errorname
        behind = behind.__cause__ or behind.__context__


def is_unavailable(error: BaseException) -> bool:
    """Whether a store that comes back would have answered.

    MLflow has one class of exceptions, with a code: one for a database that does not answer. What
    goes wrong on the way to a server it wraps.
    """
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException) and error.error_code == "TEMPORARILY_UNAVAILABLE":
        return True
    behind = error.__cause__ or error.__context__
    return isinstance(error, RequestException) or (behind is not None and is_unavailable(behind))


def exists_already(error: Exception) -> bool:
    """Whether the store refused to make what it has."""
    return getattr(error, "error_code", None) == "RESOURCE_ALREADY_EXISTS"


def has_image(client: MlflowClient, run_id: str, key: str, step: int) -> bool:
    """Whether ``log_image`` has logged all of an image of that key and step.

    There is no other way to ask for it.
    """
    from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_IMAGES

    files = _files_of_image(client, run_id, key, step)
    if not any(path.endswith(_LAST_OF_IMAGE) for path in files):
        return False
    return MLFLOW_LOGGED_IMAGES in client.get_run(run_id).data.tags


def _files_of_image(client: MlflowClient, run_id: str, key: str, step: int) -> list[str]:
    found = (file.path for file in client.list_artifacts(run_id, _IMAGES_FOLDER))
    return [path for path in found if path.startswith(f"{_IMAGES_FOLDER}/{key}+step+{step}+")]


def link_to_version(client: Any, model_id: str, name: str, version: str | int) -> None:
    """Have the user interface link a logged model to the version that was registered of it.

    ``mlflow.register_model`` does it, of a model's URI alone. ``client``: an `MlflowClient`.
    """
    from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

    link = json.dumps([{"name": name, "version": version}])
    client.set_logged_model_tags(model_id, {MLFLOW_MODEL_VERSIONS: link})


def runs_page_address(address: str, experiment_id: str, metric: str) -> str:
    """Where the user interface at ``address`` shows an experiment's runs, highest metric first.

    MLflow would open its pages on language models instead.
    """
    order = {"orderByKey": f"metrics.`{metric}`", "orderByAsc": "false"}
    query = urlencode({"workflowType": "machine_learning"} | order)
    return f"{address}/#/experiments/{experiment_id}/runs?{query}"


def system_monitors() -> list[Any]:
    """MLflow's monitors of the CPU, the disk, the network and, where there is one, the GPU.

    Each has ``collect_metrics``, ``aggregate_metrics`` and ``clear_metrics``. The public switch
    puts a thread around them that ends for good when the store is away, and that asks for the
    whole run at every sample.
    """
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
    from mlflow.system_metrics.metrics.rocm_monitor import ROCMMonitor

    monitors = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    for kind in (GPUMonitor, ROCMMonitor):
        try:
            monitors.append(kind())
        except Exception:  # whatever a driver that is not there makes its library raise
            continue
        break
    return monitors
