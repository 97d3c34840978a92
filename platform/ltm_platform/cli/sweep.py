"""Carry out a sweep in the foreground: what ``tune`` and ``resume`` have in common."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ltm_platform import paths, tracking
from ltm_platform.cli.capture import captured_output
from ltm_platform.errors import UserError
from ltm_platform.launch.folder import RunFolder
from ltm_platform.tuning.spec import SWEEP_FILE, Sweep

if TYPE_CHECKING:
    from ltm_platform.job import JobSpec
    from ltm_platform.tuning.run import Plan


def start(sweep: Sweep, job: JobSpec, *, verbose: bool) -> None:
    """Check the sweep, give it a name and carry it out."""
    from ltm_platform.preflight import with_absolute_paths

    job = with_absolute_paths(job)
    job = job.replace("tracking.uri", tracking.tracking_uri(job.tracking.uri))
    sweep = replace(sweep, job=job.to_dict())
    plan, said = _check(sweep, verbose=verbose)
    folder = RunFolder.reserve(job.replace("name", f"{job.name[:50]}-sweep"), sweep.name or None)
    sweep = replace(sweep, name=folder.name)
    sweep.save(folder.path)
    with folder.locked():
        _carry_out(plan, folder, said, verbose=verbose)


def find(name: str, uri: str | None) -> RunFolder | None:
    """The folder of the sweep of that name.

    Raises:
        UserError: it has finished.
    """
    folder = RunFolder(paths.runs() / name)
    store = tracking.tracking_uri(uri)
    records = [run for run in tracking.list_runs(store) if run.name == name]
    if records and records[0].folder:
        folder = RunFolder(Path(records[0].folder))
    if not (folder.path / SWEEP_FILE).is_file():
        return None
    if records and records[0].status == "FINISHED":
        raise UserError(f"the sweep {name!r} has finished: there is nothing to go on with")
    return folder


def go_on(folder: RunFolder, *, verbose: bool) -> None:
    """Carry out the trials of a sweep that are left."""
    sweep = Sweep.load(folder.path)
    with folder.locked():
        plan, said = _check(sweep, verbose=verbose)
        _carry_out(plan, folder, said, verbose=verbose)


def _check(sweep: Sweep, *, verbose: bool) -> tuple[Plan, bytes]:
    """The sweep ready to start, and what libraries printed meanwhile."""
    from ltm_platform.launch.embedded import this_machine
    from ltm_platform.tuning.run import plan_sweep

    with tempfile.NamedTemporaryFile(prefix="ltm-platform-", suffix=".log") as log:
        with captured_output(Path(log.name), echo=verbose):
            plan = plan_sweep(sweep, this_machine())
        return plan, Path(log.name).read_bytes()


def _carry_out(plan: Plan, folder: RunFolder, said: bytes, *, verbose: bool) -> None:
    from ltm_platform.cli.sweep_screen import SweepScreen
    from ltm_platform.tuning.run import carry_out

    with folder.log.open("ab") as log:
        log.write(said)
    with captured_output(folder.log, echo=verbose) as console:
        screen = SweepScreen(console, plan)
        screen.head(folder)
        try:
            with screen:
                summary = carry_out(plan, folder, screen)
        except KeyboardInterrupt:
            screen.stopped(folder)
            raise SystemExit(130) from None
        screen.result(summary)
        if summary.best is None:
            raise SystemExit(1)
