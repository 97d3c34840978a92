"""Carry out a run in the foreground: what ``submit`` and ``resume`` have in common."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ltm_platform import paths, preflight, tracking
from ltm_platform.cli.capture import captured_output
from ltm_platform.cli.screen import Screen
from ltm_platform.errors import RunError, UserError
from ltm_platform.job import JobSpec
from ltm_platform.launch.embedded import embedded_ray, this_machine
from ltm_platform.launch.folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Sequence


def start(job: JobSpec, command: Sequence[str], *, name: str | None, verbose: bool) -> None:
    """Check the job, give the run a name and train it; ``command`` is what the user typed."""
    _carry_out(job, command, name=name, verbose=verbose)


def go_on(name: str, uri: str | None, *, verbose: bool) -> None:
    """Train a run that stopped from its last checkpoint to the end.

    Raises:
        UserError: there is no such run, or nothing is left to do.
    """
    record = tracking.find_run(tracking.tracking_uri(uri), name)
    if record.status == "FINISHED":
        raise UserError(f"the run {name!r} has finished: there is nothing to go on with")
    folder = RunFolder(Path(record.folder or ""))
    if not record.folder or not folder.job.exists():
        raise UserError(f"the run {name!r} has no folder at {record.folder} on this machine")
    command = ("ltm-platform", "submit", str(folder.job))
    job = JobSpec.load(folder.job)
    _carry_out(job, command, folder=folder, run_id=record.run_id, verbose=verbose)


def _carry_out(
    job: JobSpec,
    command: Sequence[str],
    *,
    name: str | None = None,
    folder: RunFolder | None = None,
    run_id: str | None = None,
    verbose: bool,
) -> None:
    """One run from its checks to its result; what is printed meanwhile goes to the run's log."""
    log = folder.log if folder else _log_before_the_run_has_a_name()
    with captured_output(log, echo=verbose) as console:
        screen = Screen(console)
        try:
            machine = this_machine()
            ready = preflight.check(job, machine)
            if folder is None:
                folder = RunFolder.reserve(ready.job, name)
                log.rename(folder.log)
                folder.job.write_text(ready.job.to_yaml())
        except BaseException:
            if folder is None:
                log.unlink()
            raise
        screen.head(ready, folder)
        try:
            with screen, embedded_ray(machine):
                from ltm_platform.launch.driver import drive

                outcome = drive(ready, folder, screen, run_id=run_id)
        except KeyboardInterrupt:
            screen.stopped(folder)
            raise SystemExit(130) from None
        except RunError as error:
            screen.failed(folder, error)
            raise SystemExit(1) from None
        screen.result(ready, outcome, command)


def _log_before_the_run_has_a_name() -> Path:
    paths.runs().mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=".starting-", suffix=".log", dir=paths.runs())
    os.close(descriptor)
    return Path(name)
