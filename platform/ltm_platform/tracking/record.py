"""A run while it is being written."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ltm_platform.events import Decided, Event, Progress, Started
from ltm_platform.tracking.runs import ERROR_TAG, PARENT_TAG, RUN_FOLDER_TAG
from ltm_platform.tracking.store import connect, tracking_uri

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mlflow import MlflowClient

    from ltm_platform.job import JobSpec

# What MLflow's stores accept at once.
PARAMS_PER_BATCH = 100
PARAM_LENGTH = 6000
TAG_LENGTH = 5000
SYSTEM_METRICS_INTERVAL_S = 5.0


class TrackedRun:
    """One MLflow run that is being written; calling it records a training event."""

    def __init__(self, client: MlflowClient, uri: str, run_id: str) -> None:
        self._client = client
        self.uri = uri
        self.run_id = run_id
        self.metrics: dict[str, float] = {}
        """The latest value of every metric."""
        self._recorded: dict[str, int] = {}  # the last step of every metric
        self._before: dict[str, int] = {}  # the same, when training last began
        self._starts = 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, Started):
            self._starts += 1
            self._before = dict(self._recorded)
            if self._starts > 1:
                self.tag("ltm.restarts", str(self._starts - 1))
        if isinstance(event, Decided):
            self.tag(f"ltm.{event.name}", event.value)
        if isinstance(event, Progress):
            self.log_metrics(event.metrics, step=event.step, time_ms=event.time_ms)

    def log_metrics(self, metrics: Mapping[str, float], *, step: int, time_ms: int) -> None:
        """Record what is new: a run that goes on tells the steps after its checkpoint again."""
        from mlflow.entities import Metric

        self.metrics.update(metrics)
        rows = [
            Metric(key, value, time_ms, step)
            for key, value in metrics.items()
            if step > self._before.get(key, -1)
        ]
        self._recorded.update((row.key, row.step) for row in rows)
        if rows:
            self._client.log_batch(self.run_id, metrics=rows)

    def tag(self, key: str, value: str) -> None:
        self._client.set_tag(self.run_id, key, value[:TAG_LENGTH])

    def log_files(self, files: Sequence[Path], folder: str) -> None:
        for file in files:
            self._client.log_artifact(self.run_id, str(file), folder)

    def log_job(self, job: JobSpec) -> None:
        """The job as parameters, one a field, and as the file ``job.yaml``."""
        from mlflow.entities import Param

        params = [Param(key, str(value)[:PARAM_LENGTH]) for key, value in job.flat().items()]
        for start in range(0, len(params), PARAMS_PER_BATCH):
            self._client.log_batch(self.run_id, params=params[start : start + PARAMS_PER_BATCH])
        self._client.log_text(self.run_id, job.to_yaml(), "job.yaml")

    def reopen(self, *, repeats: bool) -> None:
        """Go on with a run that ended: its metrics are known again, its error is forgotten.

        ``repeats``: what comes again is what is recorded already, and is left out.
        """
        self._client.update_run(self.run_id, status="RUNNING")
        data = self._client.get_run(self.run_id).data
        self.metrics.update(data.metrics)
        if repeats:
            # MLflow's public view of a run leaves out the steps
            self._recorded.update((metric.key, metric.step) for metric in data._metric_objs)
        if ERROR_TAG in data.tags:
            self._client.delete_tag(self.run_id, ERROR_TAG)

    def end(self, status: str) -> None:
        self._client.set_terminated(self.run_id, status)


@contextmanager
def tracked_run(
    job: JobSpec,
    name: str,
    folder: Path,
    *,
    run_id: str | None = None,
    repeats: bool = True,
    parent: str | None = None,
) -> Iterator[TrackedRun]:
    """Record a run, or with ``run_id`` go on recording it; its status at the end is the truth.

    ``repeats``: it goes on as it would have, see `TrackedRun.reopen`. ``parent``: the MLflow run
    that a new one belongs to.

    FINISHED when the block ends, KILLED when it is interrupted, FAILED on any other exception,
    which is kept as the tag ``ltm.error`` and raised again. Within a generator that is closed,
    nothing: who closes it knows why, and ends the run.
    """
    uri = tracking_uri(job.tracking.uri)
    client = connect(uri)
    experiment = job.tracking.experiment
    run = TrackedRun(
        client, uri, run_id or create_run(client, uri, experiment, name, folder, parent)
    )
    with ending(run):
        if run_id:
            run.reopen(repeats=repeats)
        else:
            run.log_job(job)
        with _system_metrics(uri, run.run_id):
            yield run


@contextmanager
def ending(run: TrackedRun) -> Iterator[None]:
    """Close the run at the end of the block, see `tracked_run`."""
    status: str | None = "FINISHED"
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    except GeneratorExit:
        status = None
        raise
    except BaseException as error:
        status = "FAILED"
        with _uninterrupted():
            run.tag(ERROR_TAG, f"{type(error).__name__}: {error}")
        raise
    finally:
        if status:
            with _uninterrupted():
                run.end(status)


def create_run(
    client: MlflowClient, uri: str, experiment: str, name: str, folder: Path, parent: str | None
) -> str:
    """The id of a new run."""
    tags = {RUN_FOLDER_TAG: str(folder)}
    if parent:
        tags[PARENT_TAG] = parent
    run = client.create_run(_experiment_id(client, uri, experiment), run_name=name, tags=tags)
    return str(run.info.run_id)


@contextmanager
def _system_metrics(uri: str, run_id: str) -> Iterator[None]:
    """CPU, memory, disk, network and GPU use of the driver's node, as ``system/...`` metrics."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(
        run_id,
        sampling_interval=SYSTEM_METRICS_INTERVAL_S,
        resume_logging=True,
        tracking_uri=uri,
    )
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """A second Ctrl-C must not cut off the writing of the final status."""
    held = {s: signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in held.items():
            signal.signal(signum, handler)


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
