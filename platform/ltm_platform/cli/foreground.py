"""Carry out a run in the foreground: what ``submit`` and ``resume`` have in common."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ltm_platform import checks, tracking
from ltm_platform.cli.program import program
from ltm_platform.cli.screen.capture import captured_output
from ltm_platform.cli.screen.run import Screen
from ltm_platform.errors import RunError, UserError
from ltm_platform.job import JobSpec, changes
from ltm_platform.ray_cluster import attach
from ltm_platform.ray_cluster.address import EMBEDDED
from ltm_platform.ray_cluster.embedded import this_machine
from ltm_platform.ray_cluster.session import ray_at, resources_at
from ltm_platform.storage import locations
from ltm_platform.storage.checkpoints import found_again, prepare_to_resume
from ltm_platform.storage.run_folder import Resume, RunFolder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ltm_platform.checks import Ready


def start(
    job: JobSpec,
    command: Sequence[str],
    *,
    name: str | None,
    address: str = EMBEDDED,
    force: bool = False,
    verbose: bool,
) -> None:
    """Check the job, give the run a name and train it; ``command`` is what the user typed."""
    ready, said = check(job, address, force=force, verbose=verbose)
    folder = RunFolder.reserve(ready.job, name)
    with folder.locked():
        _carry_out(ready, folder, said, command, address=address, verbose=verbose)


def go_on(
    name: str,
    uri: str | None,
    *,
    start: str | None = None,
    overrides: Sequence[str] = (),
    address: str = EMBEDDED,
    force: bool = False,
    verbose: bool,
) -> None:
    """Train a run that stopped from its last checkpoint, or the one named ``start``, to the end.

    Raises:
        UserError: there is no such run or checkpoint, it is going on or has finished, or an
            override would make it another run.
    """
    store = tracking.tracking_uri(uri)
    record = tracking.find_run(store, name)
    if record.status == "FINISHED":
        raise UserError(f"the run {name!r} has finished: there is nothing to go on with")
    folder = RunFolder(Path(record.folder or ""))
    if not record.folder or not folder.job.exists():
        again = found_again(name, record.params.get("cluster.storage", ""))
        if again is None:
            raise UserError(f"the run {name!r} has no folder at {record.folder} on this machine")
        folder = again
    before = JobSpec.load(folder.job)
    checks.check_storage(before)
    job = JobSpec.load(folder.job, overrides)
    changed = changes(before, job)
    with folder.locked():
        prepare_to_resume(folder, start)
        if locations.has_password(store):
            os.environ[tracking.URI_VARIABLE] = store
        else:
            job = job.replace("tracking.uri", store)
        ready, said = check(job, address, force=force, verbose=verbose)
        command = (*program(), "submit", str(folder.job))
        resume = Resume(record.run_id, changed, rewound=start is not None)
        _carry_out(ready, folder, said, command, address=address, resume=resume, verbose=verbose)


def check(job: JobSpec, address: str, *, force: bool, verbose: bool) -> tuple[Ready, bytes]:
    """The job ready to start, and what libraries printed meanwhile: the run has no log yet.

    A Ray that is there already is joined.
    """
    with tempfile.NamedTemporaryFile(prefix="ltm-platform-", suffix=".log") as log:
        with captured_output(Path(log.name), echo=verbose):
            ready = checks.check(job, resources_at(address), force=force)
            if address != EMBEDDED:
                ready = _with_nodes(ready, force=force)
        return ready, Path(log.name).read_bytes()


def _with_nodes(ready: Ready, *, force: bool) -> Ready:
    """Checked on every node of the Ray that was joined, too."""
    collector = checks.ErrorCollector(force)
    with collector():
        attach.check_shared_storage(ready.job)
    return checks.with_problems(ready, collector.problems)


def _carry_out(
    ready: Ready,
    folder: RunFolder,
    said: bytes,
    command: Sequence[str],
    *,
    address: str,
    resume: Resume | None = None,
    verbose: bool,
) -> None:
    """One run from its start to its result; what is printed meanwhile goes to the run's log."""
    folder.job.write_text(ready.job.to_yaml())
    with folder.log.open("ab") as log:
        log.write(said)
    with captured_output(folder.log, echo=verbose) as console:
        screen = Screen(console, folder.log)
        screen.head(ready, folder)
        connecting = tracking.connect_meanwhile(tracking.tracking_uri(ready.job.tracking.uri))
        try:
            with screen, ray_at(address, this_machine()):
                connecting.join()
                from ltm_platform.runs.driver import drive

                outcome = drive(ready, folder, screen, resume=resume)
        except KeyboardInterrupt:
            screen.stopped(folder)
            raise SystemExit(130) from None
        except RunError as error:
            screen.failed(folder, error)
            raise SystemExit(1) from None
        screen.result(ready, outcome, command)
