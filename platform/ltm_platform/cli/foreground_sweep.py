"""Carry out a sweep in the foreground: what ``tune`` and ``resume`` have in common."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ltm_platform import tracking
from ltm_platform.cli.screen.capture import captured_output
from ltm_platform.errors import UserError
from ltm_platform.ray_cluster.address import EMBEDDED
from ltm_platform.storage import locations
from ltm_platform.storage.run_folder import RunFolder
from ltm_platform.tracking.runs import CLUSTER_TAG
from ltm_platform.tuning.spec import Sweep

if TYPE_CHECKING:
    from ltm_platform.job import JobSpec
    from ltm_platform.tuning.sweep_driver import Plan


def start(sweep: Sweep, job: JobSpec, *, address: str, verbose: bool) -> None:
    """Check the sweep, give it a name and carry it out."""
    from ltm_platform.checks import with_absolute_paths

    job = with_absolute_paths(job)
    store = tracking.tracking_uri(job.tracking.uri)
    if not locations.has_password(store):
        job = job.replace("tracking.uri", store)
    sweep = replace(sweep, job=job.to_dict())
    plan, said = _check(sweep, address, verbose=verbose)
    folder = RunFolder.reserve(named_as_sweep(job), sweep.name or None)
    sweep = replace(sweep, name=folder.name)
    sweep.save(folder.path)
    with folder.locked():
        _carry_out(plan, folder, said, address=address, verbose=verbose)


def named_as_sweep(job: JobSpec) -> JobSpec:
    """The job with the name that sweeps of it begin with."""
    return job.replace("name", f"{job.name[:50]}-sweep")


def find(name: str, uri: str | None) -> tuple[RunFolder, str | None] | None:
    """The folder of the sweep of that name, and the address of the cluster that it was sent to.

    Raises:
        UserError: it has finished.
    """
    store = tracking.tracking_uri(uri)
    record = next((run for run in tracking.list_runs(store) if run.name == name), None)
    recorded = Path(record.folder) if record and record.folder else None
    folder = RunFolder(recorded or locations.runs() / name)
    if not folder.is_sweep:
        return None
    if record and record.status == "FINISHED":
        raise UserError(f"the sweep {name!r} has finished: there is nothing to go on with")
    return folder, (record.tags.get(CLUSTER_TAG) or None) if record else None


def go_on(folder: RunFolder, *, address: str, verbose: bool) -> None:
    """Carry out the trials of a sweep that are left."""
    sweep = Sweep.load(folder.path)
    with folder.locked():
        plan, said = _check(sweep, address, verbose=verbose)
        _carry_out(plan, folder, said, address=address, verbose=verbose)


def _check(sweep: Sweep, address: str, *, verbose: bool) -> tuple[Plan, bytes]:
    """The sweep ready to start, and what libraries printed meanwhile.

    A Ray that is there already is joined.
    """
    from ltm_platform.ray_cluster.session import resources_at
    from ltm_platform.tuning.sweep_driver import check_nodes, plan_sweep

    with tempfile.NamedTemporaryFile(prefix="ltm-platform-", suffix=".log") as log:
        with captured_output(Path(log.name), echo=verbose):
            plan = plan_sweep(sweep, resources_at(address))
            if address != EMBEDDED:
                check_nodes(plan)
        return plan, Path(log.name).read_bytes()


def _carry_out(plan: Plan, folder: RunFolder, said: bytes, *, address: str, verbose: bool) -> None:
    from ltm_platform.cli.screen.sweep import SweepScreen
    from ltm_platform.ray_cluster.session import ray_at
    from ltm_platform.tuning.sweep_driver import carry_out

    with folder.log.open("ab") as log:
        log.write(said)
    with captured_output(folder.log, echo=verbose) as console:
        screen = SweepScreen(console, plan, folder.log)
        screen.head(folder)
        ray = ray_at(address, plan.resources)
        try:
            with screen:
                summary = carry_out(plan, folder, ray, screen)
        except KeyboardInterrupt:
            screen.stopped(folder)
            raise SystemExit(130) from None
        screen.result(summary)
        if summary.best is None:
            raise SystemExit(1)
