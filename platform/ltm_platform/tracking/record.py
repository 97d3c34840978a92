"""A run while it is being written."""

from __future__ import annotations

import json
import logging
import platform
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, assert_never

from ltm_platform.compat.mlflow import (
    has_image,
    is_unavailable,
    remove_unfinished_uploads,
)
from ltm_platform.errors import RunError
from ltm_platform.events import (
    ControllerStarted,
    Decided,
    EpochEnded,
    Event,
    Failed,
    GaveUp,
    ImagesLeftOut,
    Measured,
    Profiled,
    Progress,
    Started,
    StoppedOnRequest,
    Waiting,
)
from ltm_platform.interrupts import INTERRUPTED_S, interrupts_ignored
from ltm_platform.storage import locations
from ltm_platform.storage.files import BAD_IMAGES_FILE, written_whole
from ltm_platform.storage.manifest import JOB_FILE
from ltm_platform.temporary import temporary_folder
from ltm_platform.tracking import unsent_metrics
from ltm_platform.tracking.metric_writer import Outbox
from ltm_platform.tracking.model import ImageInput, log_model, register_model
from ltm_platform.tracking.new_run import create_run
from ltm_platform.tracking.retry import OUTAGE_S, RetryingClient
from ltm_platform.tracking.runs import (
    EPOCH_TAG,
    ERROR_TAG,
    HOST_TAG,
    RESTARTS_TAG,
    WAITS_TAG,
    WORKERS_TAG,
    last_rows,
)
from ltm_platform.tracking.store import connect, tracking_uri
from ltm_platform.tracking.system import INTERVAL_S, PREFIX, TRIAL_INTERVAL_S, sampling

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from PIL import Image
    from torch import nn

    from ltm_platform.job import JobSpec

# What MLflow's stores accept at once.
PARAMS_PER_BATCH = 100
PARAM_LENGTH = 6000
TAG_LENGTH = 5000
PROFILE_FOLDER = "profile"

BROKEN_S = 60.0
"""How long the end of a run that broke waits for a store that is unavailable."""

_log = logging.getLogger(__name__)


class TrackedRun:
    """One MLflow run that is being written; calling it records a training event.

    Metrics and tags go to the store by a thread: training and the screen never wait for it, and
    what it misses while it is unavailable is written later. Files are written at once.
    """

    def __init__(self, client: RetryingClient, uri: str, run_id: str, folder: Path) -> None:
        self._client = client.patient()
        self._outbox = Outbox(client, run_id)
        self._folder = folder
        self.uri = uri
        self.run_id = run_id
        self.metrics: dict[str, float] = {}
        """The latest value of every metric."""
        self._recorded: dict[str, int] = {}  # the last step of every metric
        self._before: dict[str, int] = {}  # the same, when training last began
        self._alters_from_start = False
        self._starts = 0
        self._epochs = 0
        self._waits = False
        self.next_system_step = 0

    def __call__(self, event: Event) -> None:
        match event:
            case Started():
                self._start(event)
                self._outbox.hurry()  # others look at the state of the run
            case Waiting():
                self.tag(WAITS_TAG, event.missing)
                self._waits = True
                self._outbox.hurry()
            case EpochEnded():
                self.tag(EPOCH_TAG, f"{event.epoch + 1}/{self._epochs}")
                self._log_progress(event)
            case Progress() | Measured():
                self._log_progress(event)
            case Decided():
                self.tag(f"ltm.{event.name}", event.value)
            case ImagesLeftOut():
                self._log_bad_images(event.images)
            case Profiled():
                self._log_bytes(event.files, PROFILE_FOLDER)
            case GaveUp() | StoppedOnRequest() | Failed() | ControllerStarted():
                pass  # the run's status at its end has it
            case _:
                assert_never(event)

    def _start(self, event: Started) -> None:
        self._starts += 1
        if self._alters_from_start:
            done = event.steps_done
            self._recorded = {key: min(step, done) for key, step in self._recorded.items()}
            self._alters_from_start = False
        self._before = dict(self._recorded)
        if self._starts > 1:
            self.tag(RESTARTS_TAG, str(self._starts - 1))
        self.tag(WORKERS_TAG, str(event.workers))
        if self._waits:
            self.tag(WAITS_TAG, "")
            self._waits = False
        self.tag(EPOCH_TAG, f"{event.epochs_done}/{event.epochs}")
        self._epochs = event.epochs

    def _log_progress(self, event: Progress) -> None:
        self.log_metrics(event.metrics, step=event.step, time_ms=event.time_ms)

    def log_metrics(self, metrics: Mapping[str, float], *, step: int, time_ms: int) -> None:
        """Record what is new: a resumed run reports the steps after its checkpoint again."""
        from mlflow.entities import Metric

        self.metrics.update(metrics)
        rows = [
            Metric(key, value, time_ms, step)
            for key, value in metrics.items()
            if step > self._before.get(key, -1)
        ]
        self._recorded.update((row.key, row.step) for row in rows)
        self._outbox.put(rows)

    def log_system(self, metrics: Mapping[str, float], step: int, time_ms: int) -> None:
        from mlflow.entities import Metric

        self._outbox.put(Metric(key, value, time_ms, step) for key, value in metrics.items())

    def tag(self, key: str, value: str) -> None:
        from mlflow.entities import RunTag

        self._outbox.put([RunTag(key, value[:TAG_LENGTH])])

    def log_files(self, files: Sequence[Path], folder: str) -> None:
        for file in files:
            self._client.log_artifact(self.run_id, str(file), folder)

    def _log_bytes(self, files: Mapping[str, bytes], folder: str) -> None:
        with temporary_folder("ltm-artifact-") as here:
            for name, content in files.items():
                (here / name).write_bytes(content)
            self.log_files([here / name for name in files], folder)

    def log_json(self, value: object, path: str) -> None:
        self._client.log_text(self.run_id, json.dumps(value), path)

    def _log_bad_images(self, found: Mapping[str, Sequence[str]]) -> None:
        """Name them in an artifact, with those of before the run was resumed."""
        file = self._folder / BAD_IMAGES_FILE
        known: dict[str, list[str]] = json.loads(file.read_text()) if file.exists() else {}
        for part, sentences in found.items():
            known[part] = sorted({*known.get(part, []), *sentences})
        text = json.dumps(known, indent=1, ensure_ascii=False)
        with written_whole(file) as part_file:
            part_file.write_text(text)
        self._client.log_text(self.run_id, text, BAD_IMAGES_FILE)

    def log_image(self, image: Image.Image, key: str, step: int) -> None:
        """An image that the UI shows beside those of other runs with the same key."""
        self._client.log_image(self.run_id, image, key=key, step=step)

    def has_image(self, key: str, step: int) -> bool:
        """Whether the store has an image of that key and step, whole."""
        return self._client.call(has_image, self.run_id, key, step)

    def log_model(self, network: nn.Module, inputs: ImageInput, step: int) -> str:
        """The network of ``step`` as a logged model, with the metrics of that step.

        Returns its id.
        """
        self.flush()
        return log_model(self._client, self.run_id, network, inputs, step)

    def register_model(self, model_id: str, name: str, aliases: Sequence[str]) -> str:
        """Make a logged model the next version of a registered one; the aliases move to it.

        Returns the version.
        """
        return register_model(self._client, self.run_id, model_id, name, aliases)

    def log_job(self, job: JobSpec, plan: Mapping[str, Any] | None = None) -> None:
        """The job as parameters, then as ``job.yaml``; after a kill what the run lacks of them.

        ``plan``: the parameter model.plan, where the job leaves it to a ratio or a budget.
        """
        from mlflow.entities import Param

        known = self._client.get_run(self.run_id).data.params
        values = job.flat() | ({"model.plan": dict(plan)} if plan else {})
        params = [
            Param(key, str(value)[:PARAM_LENGTH])
            for key, value in values.items()
            if key not in known
        ]
        for start in range(0, len(params), PARAMS_PER_BATCH):
            self._client.log_batch(self.run_id, params=params[start : start + PARAMS_PER_BATCH])
        self._client.log_text(self.run_id, job.to_yaml(), JOB_FILE)

    def has_job(self) -> bool:
        """Whether all of `log_job` was written, as far as can be seen."""
        from mlflow.exceptions import MlflowException

        with suppress(MlflowException):  # a server's artifacts, where the run goes on without it
            return any(one.path == JOB_FILE for one in self._client.list_artifacts(self.run_id))
        return True

    def reopen(self, *, repeats: bool) -> None:
        """Continue a run that ended: its metrics are loaded, its error is removed.

        ``repeats``: what comes again is what is recorded already, and is left out. Else that holds
        for what came before the step where training goes on, and later steps are recorded again.
        """
        self._client.update_run(self.run_id, status="RUNNING")
        self.tag(HOST_TAG, platform.node())
        self._outbox.put(unsent_metrics.load(self._folder))
        self.flush()
        unsent_metrics.remove(self._folder)
        run = self._client.get_run(self.run_id)
        remove_unfinished_uploads(run.info.artifact_uri)
        self.metrics.update(run.data.metrics)
        steps = {row.key: row.step for row in last_rows(run)}
        self._alters_from_start = not repeats
        self._recorded.update(steps)
        self._before = dict(self._recorded)
        sampled = [step for key, step in steps.items() if key.startswith(PREFIX)]
        self.next_system_step = max(sampled, default=-1) + 1
        self._waits = bool(run.data.tags.get(WAITS_TAG))
        if ERROR_TAG in run.data.tags:
            self._client.delete_tag(self.run_id, ERROR_TAG)

    def flush(self, limit_s: float = OUTAGE_S) -> None:
        """Wait until the store has all that was recorded.

        Raises:
            RunError: it is unavailable for longer than ``limit_s``, or its disk is full.
        """
        waiting = self._outbox.flush(limit_s)
        if waiting:
            away = f"has been away for {limit_s:.0f} s", "it is back"
            reason, until = ("has no room left", "it has") if self._outbox.is_full else away
            raise RunError(
                f"the tracking store {locations.shown(self.uri)} {reason} and lacks the last "
                f"{waiting} values: once {until}, ltm-platform resume {self._folder.name} records "
                f"them"
            )

    def end(self, status: str | None, limit_s: float) -> None:
        """Write what waits and close the run with its status; None leaves that to others.

        KILLED undoes nothing: a trial may be cut off after the sweep has closed its run.
        """
        self._client.limit_s = limit_s
        try:
            self.flush(limit_s)
            if status and not (status == "KILLED" and self._is_closed()):
                self._client.set_terminated(self.run_id, status)
        finally:
            rows = self._outbox.close()
            if rows:
                file = unsent_metrics.save(rows, self._folder)
                _log.error(
                    "%d values are not in %s but in %s", len(rows), locations.shown(self.uri), file
                )

    def _is_closed(self) -> bool:
        return bool(self._client.get_run(self.run_id).info.status != "RUNNING")


@contextmanager
def tracked_run(
    job: JobSpec,
    name: str,
    folder: Path,
    *,
    run_id: str | None = None,
    repeats: bool = True,
    parent: str | None = None,
    plan: Mapping[str, Any] | None = None,
) -> Iterator[TrackedRun]:
    """Record a run, or with ``run_id`` continue to record it, and close it with its true status.

    ``repeats``: it repeats steps with the same results, see `TrackedRun.reopen`. ``parent``: the
    MLflow run that a new one belongs to. ``plan``: as of `TrackedRun.log_job`.

    FINISHED when the block ends, KILLED when it is interrupted, FAILED on any other exception,
    which is kept as the tag ``ltm.error`` and raised again. Within a generator that is closed,
    nothing: who closes it knows why, and ends the run.

    Raises:
        RunError: the block ended, but the store is unavailable.
    """
    uri = tracking_uri(job.tracking.uri)
    client = connect(uri)
    experiment = job.tracking.experiment
    own_id = run_id or create_run(client, uri, experiment, name, folder, parent)
    run = TrackedRun(client, uri, own_id, folder)
    with ending(run):
        if run_id:
            run.reopen(repeats=repeats)
        if not (run_id and run.has_job()):
            run.log_job(job, plan)
        interval_s = TRIAL_INTERVAL_S if parent else INTERVAL_S
        with sampling(run.log_system, run.next_system_step, interval_s):
            yield run
        run.flush()


@contextmanager
def ending(run: TrackedRun) -> Iterator[None]:
    """Close the run at the end of the block, see `tracked_run`."""
    status: str | None = "FINISHED"
    limit_s = BROKEN_S
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        status, limit_s = "KILLED", INTERRUPTED_S
        raise
    except GeneratorExit:
        status = None
        raise
    except BaseException as error:
        status = "FAILED"
        run.tag(ERROR_TAG, f"{type(error).__name__}: {error}")
        raise
    finally:
        with interrupts_ignored():
            _end(run, status, limit_s)


def _end(run: TrackedRun, status: str | None, limit_s: float) -> None:
    """A store that is unavailable must not hide why a run failed."""
    try:
        run.end(status, limit_s)
    except Exception as error:
        away = isinstance(error, RunError) or is_unavailable(error)
        if status == "FINISHED" or not away:
            raise
        _log.error("the run stays RUNNING in %s: %s", locations.shown(run.uri), error)
