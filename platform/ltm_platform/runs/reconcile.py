"""Runs that MLflow has as RUNNING though no process trains them, such as after a power cut."""

from __future__ import annotations

import platform
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ltm_platform import tracking
from ltm_platform.errors import UserError
from ltm_platform.storage.run_folder import RunFolder
from ltm_platform.tracking.runs import HOST_TAG, PARENT_TAG

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ltm_platform.tracking import RunRecord

STATUS = "KILLED"
GONE = "the process that trained it ended without a word: killed, out of memory or without power"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known of a run that is recorded as RUNNING."""

    run: str
    run_id: str
    trained: bool | None
    """None: that cannot be known from here."""
    reason: str


def reconcile(uri: str, *, silent_s: float | None = None, dry_run: bool = False) -> list[Verdict]:
    """Close every RUNNING run that no process trains as `STATUS`, at the time of its last record.

    A run on this machine is trained for as long as a process holds the lock of its folder, a
    sweep's trial for as long as one holds the sweep's. Of a run elsewhere nothing is known, and it
    is left as it is, unless ``silent_s`` is given: then it counts as ended when it has recorded
    nothing for so many seconds. System metrics are recorded at least every 60 s.
    """
    verdicts = []
    records = {record.run_id: record for record in tracking.list_runs(uri)}
    recorded_ms = _last_recorded(records.values())
    for record in records.values():
        if record.status != "RUNNING":
            continue
        owner = records.get(record.tags.get(PARENT_TAG, ""), record)
        with ExitStack() as stack:
            verdict = _judge(record, owner, recorded_ms[record.run_id], silent_s, stack)
            if verdict.trained is False and not dry_run and _still_running(uri, record):
                ended_ms = recorded_ms[record.run_id]
                tracking.end_run(uri, record.run_id, STATUS, verdict.reason, ended_ms)
        verdicts.append(verdict)
    return verdicts


def _last_recorded(records: Iterable[RunRecord]) -> dict[str, int]:
    """Run id -> when the run last recorded anything; a sweep also through its trials."""
    last: dict[str, int] = {}
    for record in records:
        for run_id in (record.run_id, record.tags.get(PARENT_TAG)):
            if run_id:
                last[run_id] = max(last.get(run_id, 0), record.last_recorded_ms)
    return last


def _judge(
    record: RunRecord, owner: RunRecord, recorded_ms: int, silent_s: float | None, stack: ExitStack
) -> Verdict:
    """The owner's lock, if free, is held until the stack ends: no process can resume the run."""

    def verdict(trained: bool | None, reason: str) -> Verdict:
        return Verdict(record.name, record.run_id, trained, reason)

    host = owner.tags.get(HOST_TAG)
    folder = RunFolder(Path(owner.folder)) if owner.folder else None
    if folder and host == platform.node() and folder.path.is_dir():
        try:
            stack.enter_context(folder.locked())
        except UserError:
            return verdict(True, "a process on this machine trains it")
        return verdict(False, GONE)
    silent = time.time() - recorded_ms / 1000
    if silent_s is not None and silent >= silent_s:
        return verdict(False, f"it has recorded nothing for {_duration(silent)}")
    where = f"on {host}" if host and host != platform.node() else "elsewhere"
    return verdict(None, f"it runs {where}, and recorded something {_duration(silent)} ago")


def _still_running(uri: str, record: RunRecord) -> bool:
    """It may have ended between the listing and the lock."""
    runs = tracking.list_runs(uri)
    return any(run.run_id == record.run_id and run.status == "RUNNING" for run in runs)


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    if hours >= 48:
        return f"{hours / 24:.0f} days"
    if minutes >= 120:
        return f"{hours:.0f} hours"
    return f"{minutes:.0f} minutes" if minutes >= 2 else f"{seconds:.0f} seconds"
