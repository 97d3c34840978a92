"""MLflow: where runs are recorded, listed and shown. No other module knows it."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from ltm_platform import paths
from ltm_platform.errors import UserError, nearest
from ltm_platform.events import Event, Started

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mlflow import MlflowClient
    from mlflow.entities import Run

    from ltm_platform.job import JobSpec

URI_VARIABLE = "MLFLOW_TRACKING_URI"
RUN_FOLDER_TAG = "ltm.run_folder"
ERROR_TAG = "ltm.error"
# What MLflow's stores accept at once.
PARAMS_PER_BATCH = 100
PARAM_LENGTH = 6000
TAG_LENGTH = 5000
SYSTEM_METRICS_INTERVAL_S = 5.0


def tracking_uri(configured: str | None = None) -> str:
    """The job's ``tracking.uri``, else ``MLFLOW_TRACKING_URI``, else this user's sqlite store.

    A relative sqlite path is made absolute here, once: workers run in folders of their own.
    """
    uri = configured or os.environ.get(URI_VARIABLE) or f"sqlite:///{paths.home() / 'mlflow.db'}"
    prefix = "sqlite:///"
    if uri.startswith(prefix) and not Path(uri.removeprefix(prefix)).is_absolute():
        return prefix + str(Path(uri.removeprefix(prefix)).resolve())
    if "://" not in uri or uri.startswith("file:"):
        raise UserError(
            f"tracking.uri is {uri!r}, but must be a database such as sqlite:////path/mlflow.db "
            f"or a server such as http://host:5000: MLflow keeps no runs in plain folders any more"
        )
    return uri


def _connect(uri: str) -> MlflowClient:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
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


def _experiment_id(client: MlflowClient, uri: str, name: str) -> str:
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        location = None
        if uri.startswith("sqlite:"):
            folder = Path(uri.removeprefix("sqlite:///")).parent / "artifacts" / name
            location = folder.as_uri()
        try:
            return client.create_experiment(name, artifact_location=location)
        except MlflowException:  # another run created it a moment ago
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    return experiment.experiment_id


class TrackedRun:
    """One MLflow run that is being written; calling it records a training event."""

    def __init__(self, client: MlflowClient, uri: str, run_id: str) -> None:
        self._client = client
        self.uri = uri
        self.run_id = run_id
        self.metrics: dict[str, float] = {}
        """The latest value of every metric."""

    def __call__(self, event: Event) -> None:
        if not isinstance(event, Started):
            self.log_metrics(event.metrics, step=event.step, time_ms=event.time_ms)

    def log_metrics(self, metrics: Mapping[str, float], *, step: int, time_ms: int) -> None:
        from mlflow.entities import Metric

        self.metrics.update(metrics)
        rows = [Metric(key, value, time_ms, step) for key, value in metrics.items()]
        self._client.log_batch(self.run_id, metrics=rows)

    def tag(self, key: str, value: str) -> None:
        self._client.set_tag(self.run_id, key, value[:TAG_LENGTH])

    def log_text(self, text: str, name: str) -> None:
        self._client.log_text(self.run_id, text, name)

    def log_files(self, files: Sequence[Path], folder: str) -> None:
        for file in files:
            self._client.log_artifact(self.run_id, str(file), folder)

    def _end(self, status: str) -> None:
        self._client.set_terminated(self.run_id, status)


@contextmanager
def tracked_run(
    job: JobSpec, name: str, folder: Path, *, run_id: str | None = None
) -> Iterator[TrackedRun]:
    """Record a run, or with ``run_id`` go on recording it; its status at the end is the truth.

    FINISHED when the block ends, KILLED when it is interrupted, FAILED on any other exception,
    which is kept as the tag ``ltm.error`` and raised again.
    """
    uri = tracking_uri(job.tracking.uri)
    client = _connect(uri)
    if run_id is None:
        run_id = _create(client, uri, job, name, folder)
    else:
        client.update_run(run_id, status="RUNNING")
    run = TrackedRun(client, uri, run_id)
    monitor = _monitor(uri, run_id)
    status = "FINISHED"
    try:
        yield run
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    except BaseException as error:
        status = "FAILED"
        with _uninterrupted():
            run.tag(ERROR_TAG, f"{type(error).__name__}: {error}")
        raise
    finally:
        with _uninterrupted():
            monitor.finish()
            run._end(status)


def _create(client: MlflowClient, uri: str, job: JobSpec, name: str, folder: Path) -> str:
    from mlflow.entities import Param

    run = client.create_run(
        _experiment_id(client, uri, job.tracking.experiment),
        run_name=name,
        tags={RUN_FOLDER_TAG: str(folder)},
    )
    params = [Param(key, str(value)[:PARAM_LENGTH]) for key, value in job.flat().items()]
    for start in range(0, len(params), PARAMS_PER_BATCH):
        client.log_batch(run.info.run_id, params=params[start : start + PARAMS_PER_BATCH])
    client.log_text(run.info.run_id, job.to_yaml(), "job.yaml")
    return run.info.run_id


def _monitor(uri: str, run_id: str) -> Any:
    """CPU, memory, disk, network and GPU use of the driver's node, as ``system/...`` metrics."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(
        run_id,
        sampling_interval=SYSTEM_METRICS_INTERVAL_S,
        resume_logging=True,
        tracking_uri=uri,
    )
    monitor.start()
    return monitor


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """A second Ctrl-C must not cut off the writing of the final status."""
    held = {s: signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in held.items():
            signal.signal(signum, handler)


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
    client = _connect(uri)
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
        ended_ms=run.info.end_time,
        folder=run.data.tags.get(RUN_FOLDER_TAG),
        error=run.data.tags.get(ERROR_TAG),
    )


def ui_command(uri: str, host: str, port: int) -> list[str]:
    """The command line of MLflow's own server for this store."""
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    return [*command, "--host", host, "--port", str(port)]
