"""A sweep: a run of its own, and the parent of its trials' runs."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltm_platform.tracking.new_run import create_run
from ltm_platform.tracking.record import TrackedRun, ending
from ltm_platform.tracking.retry import OUTAGE_S
from ltm_platform.tracking.runs import PARENT_TAG, RUN_FOLDER_TAG, last_rows
from ltm_platform.tracking.store import connect, tracking_uri

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from mlflow.entities import Run

    from ltm_platform.job import JobSpec
    from ltm_platform.tracking.retry import RetryingClient

STOPPED_TAG = "ltm.stopped_early"
"""Epochs after which a scheduler stopped a trial."""
BEST_TRIAL_TAG = "ltm.best_trial"
"""Of a sweep: the name of its best trial's run."""


class TrackedSweep(TrackedRun):
    """The parent run. Its trials write their own runs; it ends those that could not themselves."""

    def end_trial(self, folder: Path, status: str, tags: Mapping[str, str]) -> None:
        """Close the run of the trial in ``folder``, unless it is, or was cut off before this."""
        for run in self._trial(folder):
            if run.info.status in ("RUNNING", "KILLED"):
                self._close(run, status, tags)

    def delete_trial(self, folder: Path) -> None:
        """Delete the run of the trial in ``folder``, if it has one."""
        for run in self._trial(folder):
            self._client.delete_run(run.info.run_id)

    def correct_trial(self, folder: Path, metrics: Mapping[str, float]) -> None:
        """Give metrics of the run of the trial in ``folder`` another last value, a step later."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        for run in self._trial(folder):
            steps = {row.key: row.step for row in last_rows(run)}
            trained = [step for key, step in steps.items() if not key.startswith("system/")]
            last = max(trained, default=0)
            rows = [
                Metric(key, value, now, steps[key] + 1 if key in steps else last)
                for key, value in metrics.items()
            ]
            self._client.log_batch(run.info.run_id, metrics=rows)

    def complete_trial(self, folder: Path, metrics: Mapping[str, float]) -> None:
        """Give the run of the trial in ``folder`` those of these metrics that it lacks."""
        for run in self._trial(folder):
            lacking = {key: value for key, value in metrics.items() if key not in run.data.metrics}
            self.correct_trial(folder, lacking)

    @contextmanager
    def ended_trial(self, folder: Path) -> Iterator[TrackedRun]:
        """The run of the trial in ``folder``, to add to it what is known after its end."""
        (child,) = self._trial(folder)
        run = TrackedRun(connect(self.uri), self.uri, child.info.run_id, folder)
        try:
            yield run
        finally:
            run.end(None, OUTAGE_S)

    def end_trials(self, status: str) -> None:
        """Close the runs of all trials that are open."""
        for run in self._children():
            if run.info.status == "RUNNING":
                self._close(run, status, {})

    def _trial(self, folder: Path) -> list[Run]:
        """Of the trial in ``folder``: one run, or none yet."""
        return [run for run in self._children() if run.data.tags[RUN_FOLDER_TAG] == str(folder)]

    def _children(self) -> list[Run]:
        experiment = self._client.get_run(self.run_id).info.experiment_id
        return _search(self._client, experiment, f"tags.`{PARENT_TAG}` = '{self.run_id}'")

    def _close(self, run: Run, status: str, tags: Mapping[str, str]) -> None:
        for key, value in tags.items():
            self._client.set_tag(run.info.run_id, key, value)
        self._client.set_terminated(run.info.run_id, status)


@contextmanager
def tracked_sweep(job: JobSpec, name: str, folder: Path) -> Iterator[TrackedSweep]:
    """Record the sweep in ``folder``, or continue to record it; ``job`` is what its trials vary.

    At the end its status, and that of trials which were cut off, is as for `tracked_run`.
    """
    uri = tracking_uri(job.tracking.uri)
    client = connect(uri)
    experiment = job.tracking.experiment
    run_id = run_of_folder(uri, experiment, folder)
    own_id = run_id or create_run(client, uri, experiment, name, folder, None)
    sweep = TrackedSweep(client, uri, own_id, folder)
    with ending(sweep):
        if run_id:
            sweep.reopen(repeats=True)
        if not (run_id and sweep.has_job()):
            sweep.log_job(job)
        try:
            yield sweep
        finally:
            sweep.end_trials("KILLED")


def run_of_folder(uri: str, experiment: str, folder: Path) -> str | None:
    """The id of the run whose folder it is."""
    client = connect(uri)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return None
    runs = _search(client, found.experiment_id, f'tags.`{RUN_FOLDER_TAG}` = "{folder}"')
    return str(runs[0].info.run_id) if runs else None


@dataclass(frozen=True, slots=True)
class Ended:
    """A trial that needs nothing more."""

    metrics: dict[str, float]
    """The latest value of each metric."""
    stopped_after: int | None
    """Epochs, if a scheduler stopped it."""


def how_it_ended(uri: str, run_id: str) -> Ended | None:
    """Of a trial's run that is FINISHED; None of any other."""
    run = connect(uri).get_run(run_id)
    if run.info.status != "FINISHED":
        return None
    stopped = run.data.tags.get(STOPPED_TAG)
    return Ended(dict(run.data.metrics), None if stopped is None else int(stopped))


def _search(client: RetryingClient, experiment_id: str, wanted: str) -> list[Run]:
    found: list[Run] = []
    token = None
    while True:
        page = client.search_runs([experiment_id], wanted, page_token=token)
        found += page
        token = page.token
        if not token:
            return found
