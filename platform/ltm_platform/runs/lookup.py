"""A run by its name: what is recorded of it, and where it runs."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ltm_platform import tracking
from ltm_platform.errors import UserError
from ltm_platform.ray_cluster.address import Kind, find_address, kind
from ltm_platform.storage.run_folder import RunFolder
from ltm_platform.tracking.runs import (
    CLUSTER_TAG,
    EPOCH_TAG,
    HOST_TAG,
    RESTARTS_TAG,
    SUBMISSION_TAG,
    TRIALS_TAG,
    WAITS_TAG,
    WORKERS_TAG,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ltm_platform.ray_cluster.jobs_api import JobsClient, Sent
    from ltm_platform.tracking import RunRecord

LOST = "LOST"
"""Recorded as RUNNING, but its process on this machine is gone: `reconcile` closes it."""

WAITING = "WAITING"
"""Recorded as RUNNING, but its workers do not fit beside what others run on the cluster."""


@dataclass(frozen=True, slots=True)
class FoundRun:
    """A run that is recorded, or one that a cluster is about to begin."""

    name: str
    record: RunRecord | None
    folder: RunFolder | None
    """If it runs on this machine, or did."""
    address: str | None
    """Of the cluster that it was sent to."""
    submission: str | None


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A line of a list of runs."""

    name: str
    state: str
    epoch: str
    """Epochs done of epochs in all; of a sweep, trials."""
    top1: float | None
    """Percent."""
    images_per_s: float | None
    workers: int | None
    restarts: int
    age_s: float
    """Since it was started first."""
    where: str
    """The cluster's address, or the machine's name."""
    error: str | None


def locate(name: str, uri: str | None, address: str | None) -> FoundRun:
    """Find a run: in the store, else among what its cluster was sent.

    ``address`` is that of the cluster, if not the recorded one.

    Raises:
        UserError: there is no such run.
    """
    store = tracking.tracking_uri(uri)
    record = next((run for run in tracking.list_runs(store) if run.name == name), None)
    if record is None:
        where = find_address(address)
        if kind(where) == Kind.CLUSTER:
            sent = _begun(_cluster(where), name)
            if sent:
                return FoundRun(name, None, None, where, sent.id)
        record = tracking.find_run(store, name)  # which says that there is none
    tagged = record.tags.get(CLUSTER_TAG) or None
    return FoundRun(
        name=name,
        record=record,
        folder=folder_here(record),
        address=address or tagged,
        submission=record.tags.get(SUBMISSION_TAG) or None,
    )


def folder_here(record: RunRecord) -> RunFolder | None:
    """The folder of a run of this machine."""
    here = record.tags.get(HOST_TAG) == platform.node()
    folder = RunFolder(Path(record.folder)) if record.folder else None
    return folder if here and folder and folder.path.is_dir() else None


def state_of(record: RunRecord) -> str:
    """The recorded state, `LOST` or `WAITING`."""
    folder = folder_here(record)
    if record.status == "RUNNING" and folder and not folder.owner.is_locked():
        return LOST
    if record.status == "RUNNING" and record.tags.get(WAITS_TAG):
        return WAITING
    return record.status


def summarise(record: RunRecord) -> RunSummary:
    tags, metrics = record.tags, record.metrics
    workers = tags.get(WORKERS_TAG)
    epochs = record.params.get("recipe.epochs")
    epoch = tags.get(EPOCH_TAG) or (f"0/{epochs}" if epochs else "")
    if TRIALS_TAG in tags:
        epoch = f"{tags[TRIALS_TAG]} trials"
    return RunSummary(
        name=record.name,
        state=state_of(record),
        epoch=epoch,
        top1=metrics.get("val/top1"),
        images_per_s=metrics.get("train/images_per_s"),
        workers=int(workers) if workers else None,
        restarts=int(tags.get(RESTARTS_TAG, 0)),
        age_s=time.time() - record.started_ms / 1000,
        where=tags.get(CLUSTER_TAG) or tags.get(HOST_TAG, ""),
        error=record.error,
    )


def list_all(uri: str | None, address: str | None) -> list[RunSummary]:
    """All runs, the newest first; before them what a cluster was sent and has not begun."""
    records = tracking.list_runs(tracking.tracking_uri(uri))
    where = find_address(address)
    waiting: list[RunSummary] = []
    if kind(where) == Kind.CLUSTER:
        known = {record.tags.get(SUBMISSION_TAG) for record in records}
        waiting = list(_waiting(_cluster(where), known))
    return waiting + [summarise(record) for record in records]


def _waiting(cluster: JobsClient, known: Iterable[str | None]) -> Iterable[RunSummary]:
    begun = set(known)
    for sent in cluster.sent():
        if sent.begins and not sent.ended and sent.id not in begun:
            yield RunSummary(
                sent.run, sent.status, "", None, None, None, 0, 0, cluster.address, None
            )


def _begun(cluster: JobsClient, name: str) -> Sent | None:
    """The last that was sent of a run."""
    return next((sent for sent in cluster.sent(name) if sent.begins), None)


def _cluster(address: str) -> JobsClient:
    from ltm_platform.ray_cluster.jobs_api import JobsClient

    return JobsClient(address)


def no_cluster(found: FoundRun) -> UserError:
    """The error that a run is neither here nor on a cluster that is known."""
    host = found.record.tags.get(HOST_TAG) if found.record else None
    return UserError(f"the run {found.name!r} is on the machine {host}: give the command there")
