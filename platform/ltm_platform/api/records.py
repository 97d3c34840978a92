"""Runs by their names: state, logs, comparison, stop and reconcile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltm_platform import tracking
from ltm_platform.api.jobs import address_of
from ltm_platform.api.process import restored_process
from ltm_platform.api.sending import send_stop
from ltm_platform.api.sweeps import sweep_folder
from ltm_platform.api.values import Located, Status, Stopped
from ltm_platform.errors import UserError
from ltm_platform.ray_cluster.address import Kind, kind
from ltm_platform.report.selection import Condition, select
from ltm_platform.runs import lookup, removal
from ltm_platform.runs.checkpoint_lookup import checkpoint_tag
from ltm_platform.tracking.runs import TRIALS_TAG, WAITS_TAG

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ltm_platform.report.comparison import Column, Tracked
    from ltm_platform.report.paper_table import Results
    from ltm_platform.report.published import PublishedFigures
    from ltm_platform.runs.lookup import RunSummary
    from ltm_platform.runs.reconcile import Verdict
    from ltm_platform.runs.removal import Removal
    from ltm_platform.tracking import RunRecord


@restored_process()
def runs(
    *,
    where: Sequence[str] = (),
    statuses: Sequence[str] = (),
    experiment: str | None = None,
    job: str | None = None,
    sort: str | None = None,
    limit: int | None = None,
    tracking_uri: str | None = None,
) -> list[RunRecord]:
    """Runs with their state, their job and their metrics, the newest first.

    Args:
        where: ``KEY OPERATOR VALUE`` each, such as ``val/top1>90`` or ``model.method=ltm``.
        statuses: MLflow's.
        experiment: MLflow's.
        job: its name; ``*`` stands for anything.
        sort: a metric or a field of the job; ``-KEY`` has the largest first.
        limit: at most so many.
        tracking_uri: MLflow's store; ``MLFLOW_TRACKING_URI`` or this user's own if left out.

    Raises:
        UserError: a condition or a key is invalid, or the store does not answer.
    """
    conditions = [Condition.parse(text) for text in where]
    if experiment is not None:
        conditions.append(Condition("experiment", "=", experiment))
    if job is not None:
        conditions.append(Condition("job", "=", job))
    everything = tracking.list_runs(tracking.tracking_uri(tracking_uri))
    found = select(everything, conditions, sort=sort)
    return [run for run in found if not statuses or run.status in statuses][:limit]


@restored_process()
def overview(*, address: str | None = None, tracking_uri: str | None = None) -> list[RunSummary]:
    """The states of all runs, the newest first; before them those that a cluster has not started.

    Raises:
        UserError: the store or the cluster does not answer.
    """
    return lookup.list_all(tracking_uri, address)


@restored_process()
def locate(name: str, *, address: str | None = None, tracking_uri: str | None = None) -> Located:
    """Where a run or a sweep that stopped would be resumed, see `resume` and `resume_sweep`.

    Raises:
        UserError: there is none of that name, or it is a sweep that has finished.
    """
    sweep = sweep_folder(name, tracking_uri)
    if sweep is None:
        found = lookup.locate(name, tracking_uri, address)
        where = address_of(None, address or found.address)
    else:
        where = address_of(None, address or sweep[1])
    return Located(name, sweep is not None, where, kind(where) == Kind.CLUSTER)


@restored_process()
def status(name: str, *, address: str | None = None, tracking_uri: str | None = None) -> Status:
    """The state of a run, here or on a cluster.

    Raises:
        UserError: there is no such run.
    """
    found = lookup.locate(name, tracking_uri, address)
    if found.record is None:
        return _sent(found)
    summary = lookup.summarise(found.record)
    waits = found.record.tags.get(WAITS_TAG, "") if summary.state == lookup.WAITING else ""
    return Status(summary, waits, found.record.folder or "", begun=True)


def _sent(found: lookup.FoundRun) -> Status:
    """The state of a run that was sent to a cluster and is not recorded yet."""
    from ltm_platform.ray_cluster.jobs_api import JobsClient

    assert found.address
    assert found.submission
    sent = JobsClient(found.address).look(found.submission)
    error = sent.message if sent.status == "FAILED" else ""
    none = (None, None, None)
    summary = lookup.RunSummary(found.name, sent.status, "", *none, 0, 0, found.address, error)
    return Status(summary, "", "", begun=False)


@restored_process()
def logs(
    name: str,
    *,
    follow: bool = False,
    address: str | None = None,
    tracking_uri: str | None = None,
) -> Iterator[str]:
    """What a run has printed so far, piece by piece; with ``follow`` until it ends.

    Raises:
        UserError: there is no such run, or no log of it.
    """
    from ltm_platform.ray_cluster.jobs_api import JobsClient
    from ltm_platform.runs.logs import read

    found = lookup.locate(name, tracking_uri, address)
    if found.folder:
        if not found.folder.log.exists():
            raise UserError(f"the run {name!r} has no log at {found.folder.log}")
        return read(found.folder, follow=follow)
    if found.address and found.submission:
        cluster = JobsClient(found.address)
        return cluster.follow(found.submission) if follow else iter([cluster.log(found.submission)])
    raise lookup.no_cluster(found)


@restored_process()
def stop(
    name: str,
    *,
    now: bool = False,
    wait: bool = True,
    address: str | None = None,
    tracking_uri: str | None = None,
) -> Stopped:
    """Have a run save a checkpoint and end as KILLED, here or on a cluster.

    Args:
        now: at once, without a checkpoint of the last steps; a sweep always.
        wait: until it has ended. A listener of the run itself must not.

    Raises:
        UserError: there is no such run, or it is not running.
        RunError: the cluster could not stop it.
    """
    from ltm_platform.runs import stop as runs_stop

    found = lookup.locate(name, tracking_uri, address)
    if found.folder:
        runs_stop.stop(found.folder, now=now, wait=wait)
    elif found.address and found.record is None:
        _withdraw(name, found.address)
        return Stopped(name, None)
    elif found.address:
        sent = send_stop(name, found.address, now=now, uri=tracking_uri)
        if wait:
            sent.wait()
    else:
        raise lookup.no_cluster(found)
    if not wait:
        return Stopped(name, None)
    record = tracking.find_run(tracking.tracking_uri(tracking_uri), name)
    resumable = {checkpoint_tag("last"), TRIALS_TAG} & record.tags.keys()
    return Stopped(name, record.status, bool(resumable))


def _withdraw(name: str, address: str) -> None:
    from ltm_platform.ray_cluster.jobs_api import JobsClient

    cluster = JobsClient(address)
    sent = cluster.training(name)
    if sent is None:
        raise UserError(f"the run {name!r} is not going on: there is nothing to stop")
    cluster.interrupt(sent.id)


@restored_process()
def removals(names: Sequence[str], *, tracking_uri: str | None = None) -> list[Removal]:
    """What `remove` would remove with these runs. A sweep goes with its trials.

    Raises:
        UserError: there is no such run, it goes on, it is a trial, its folder is on another
            machine, or a registered model is made of it.
    """
    store = tracking.tracking_uri(tracking_uri)
    return removal.removals(names, store)


@restored_process()
def remove(names: Sequence[str], *, tracking_uri: str | None = None) -> list[Removal]:
    """Remove runs for good, with their checkpoints, folders and artifacts; none if one cannot be.

    Returns what has been removed.

    Raises:
        UserError: as of `removals`; or a run has begun to go on meanwhile, or a storage cannot be
            written to, and the runs before it are removed.
    """
    store = tracking.tracking_uri(tracking_uri)
    found = removals(names, tracking_uri=store)
    for one in found:
        try:
            removal.remove(one, store)
        except OSError as error:
            raise UserError(
                f"of the run {one.name!r} not all can be removed: {error.strerror or error}"
            ) from None
    return found


@dataclass(frozen=True, slots=True)
class Compared:
    """Runs side by side."""

    columns: Sequence[Column]
    """One row a run, all with the same keys."""
    tracked: Sequence[Tracked]

    def draw(self, file: Path) -> None:
        """Top-1 against GMACs, and the losses, as PNG, SVG or PDF."""
        from ltm_platform.report.figures import comparison_figure, save

        save(comparison_figure(self.tracked), file)


@restored_process()
def compare(names: Sequence[str], *, tracking_uri: str | None = None) -> Compared:
    """What differs between runs: the fields in which their jobs differ, cost, accuracy and speed.

    Raises:
        UserError: there is no such run.
    """
    from ltm_platform.report import comparison

    store = tracking.tracking_uri(tracking_uri)
    tracked = [
        _with_curves(store, one) for one in tracking.find_runs(store, list(dict.fromkeys(names)))
    ]
    return Compared(comparison.compare(tracked), tracked)


@restored_process()
def results_table(*, tracking_uri: str | None = None) -> tuple[Results, PublishedFigures]:
    """Our finished runs beside the published results, and these.

    Raises:
        UserError: the store does not answer.
    """
    from ltm_platform.report.paper_table import results
    from ltm_platform.report.published import published

    store = tracking.tracking_uri(tracking_uri)
    finished = [
        _with_curves(store, record)
        for record in tracking.list_runs(store)
        if record.status == "FINISHED"
    ]
    table = published()
    return results(table, finished), table


def _with_curves(store: str, record: RunRecord) -> Tracked:
    from ltm_platform.report.comparison import CURVES, Tracked

    return Tracked(record, tracking.read_curves(store, record.run_id, CURVES))


@restored_process()
def reconcile(
    *,
    silent_s: float | None = None,
    dry_run: bool = False,
    tracking_uri: str | None = None,
) -> list[Verdict]:
    """Close as KILLED the runs that are recorded as RUNNING, but that no process trains.

    Args:
        silent_s: close runs of other machines, too, that have recorded nothing for so long.
        dry_run: change nothing.

    Raises:
        UserError: the store does not answer.
    """
    from ltm_platform.runs import reconcile as runs_reconcile

    store = tracking.tracking_uri(tracking_uri)
    return runs_reconcile.reconcile(store, silent_s=silent_s, dry_run=dry_run)
