"""Carry out a run in the foreground: what ``submit`` and ``resume`` have in common."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ltm_platform import preflight, tracking
from ltm_platform.cli.capture import captured_output
from ltm_platform.cli.program import program
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
    store = tracking.tracking_uri(uri)
    record = tracking.find_run(store, name)
    if record.status == "FINISHED":
        raise UserError(f"the run {name!r} has finished: there is nothing to go on with")
    folder = RunFolder(Path(record.folder or ""))
    if not record.folder or not folder.job.exists():
        raise UserError(f"the run {name!r} has no folder at {record.folder} on this machine")
    command = (*program(), "submit", str(folder.job))
    job = JobSpec.load(folder.job).replace("tracking.uri", store)
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
    machine = this_machine()
    with tempfile.NamedTemporaryFile(prefix="ltm-platform-", suffix=".log") as early:
        with captured_output(Path(early.name), echo=verbose):
            ready = preflight.check(job, machine)
        if folder is None:
            folder = RunFolder.reserve(ready.job, name)
            folder.job.write_text(ready.job.to_yaml())
        with folder.log.open("ab") as log:
            log.write(Path(early.name).read_bytes())

    with captured_output(folder.log, echo=verbose) as console:
        screen = Screen(console)
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
