"""Runs that MLflow holds for RUNNING though nobody trains them: what a power cut left."""

from __future__ import annotations

import platform
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ltm_platform import tracking
from ltm_platform.errors import UserError
from ltm_platform.launch.folder import RunFolder
from ltm_platform.tracking.runs import HOST_TAG

if TYPE_CHECKING:
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
    """Close every RUNNING run that nobody trains as `STATUS`, at the time it last told anything.

    A run on this machine is trained for as long as a process holds the lock of its folder. Of a
    run elsewhere nothing is known, and it is let be, unless ``silent_s`` is given: then it counts
    as ended when it has recorded nothing for so many seconds. System metrics are recorded every
    five, whatever training does.
    """
    verdicts = []
    for record in tracking.list_runs(uri):
        if record.status != "RUNNING":
            continue
        with ExitStack() as stack:
            verdict = _judge(record, silent_s, stack)
            if verdict.trained is False and not dry_run and _still_running(uri, record):
                tracking.end_run(uri, record.run_id, STATUS, verdict.reason, record.last_told_ms)
        verdicts.append(verdict)
    return verdicts


def _judge(record: RunRecord, silent_s: float | None, stack: ExitStack) -> Verdict:
    """The run's lock, if it is free, is held until the stack ends: nobody takes the run up."""

    def verdict(trained: bool | None, reason: str) -> Verdict:
        return Verdict(record.name, record.run_id, trained, reason)

    host = record.tags.get(HOST_TAG)
    folder = RunFolder(Path(record.folder)) if record.folder else None
    if folder and host == platform.node() and folder.path.is_dir():
        try:
            stack.enter_context(folder.locked())
        except UserError:
            return verdict(True, "a process on this machine trains it")
        return verdict(False, GONE)
    silent = time.time() - record.last_told_ms / 1000
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
