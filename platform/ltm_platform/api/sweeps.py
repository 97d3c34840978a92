"""Train a job many times, with other values of some of its fields."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from ltm_platform import tracking
from ltm_platform.api.jobs import address_of, load
from ltm_platform.api.output import captured_output, shown
from ltm_platform.api.process import restored_process
from ltm_platform.api.sending import send_resume, send_tune
from ltm_platform.api.training import NOT_SENT
from ltm_platform.api.values import SentCommand, SweepBegins, SweepEvent
from ltm_platform.errors import UserError
from ltm_platform.events import Waiting
from ltm_platform.job import JobSpec
from ltm_platform.ray_cluster import attach
from ltm_platform.ray_cluster.address import Kind, kind
from ltm_platform.ray_cluster.forked_workers import needed
from ltm_platform.ray_cluster.machine.claims import Need
from ltm_platform.ray_cluster.session import Session, session
from ltm_platform.runs.checkpoint_lookup import with_run_weights
from ltm_platform.runs.notification import notifying
from ltm_platform.storage import addresses, locations
from ltm_platform.storage.permissions import private_files
from ltm_platform.storage.run_folder import RunFolder
from ltm_platform.temporary import temporary_folder
from ltm_platform.tracking.runs import CLUSTER_TAG
from ltm_platform.tuning.spec import Sweep, named_as_sweep, read_stages

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ltm_platform.api.values import Printed, SweepListener
    from ltm_platform.tuning.sweep_driver import Plan, SweepSummary


@overload
def tune(
    job: JobSpec | str | Path,
    params: Sequence[str] = (),
    *,
    overrides: Sequence[str] = (),
    objectives: Sequence[str] = (),
    search: str | None = None,
    trials: int | None = None,
    scheduler: str = "none",
    grace: int = 1,
    seed: int = 0,
    protocol: str | None = None,
    name: str | None = None,
    address: str | None = None,
    wait: Literal[True] = True,
    listener: SweepListener | None = None,
    printed: Printed | None = None,
) -> SweepSummary: ...


@overload
def tune(
    job: JobSpec | str | Path,
    params: Sequence[str] = (),
    *,
    overrides: Sequence[str] = (),
    objectives: Sequence[str] = (),
    search: str | None = None,
    trials: int | None = None,
    scheduler: str = "none",
    grace: int = 1,
    seed: int = 0,
    protocol: str | None = None,
    name: str | None = None,
    address: str | None = None,
    wait: Literal[False],
    verbose: bool = False,
) -> SentCommand: ...


@restored_process()
def tune(
    job: JobSpec | str | Path,
    params: Sequence[str] = (),
    *,
    overrides: Sequence[str] = (),
    objectives: Sequence[str] = (),
    search: str | None = None,
    trials: int | None = None,
    scheduler: str = "none",
    grace: int = 1,
    seed: int = 0,
    protocol: str | None = None,
    name: str | None = None,
    address: str | None = None,
    wait: bool = True,
    listener: SweepListener | None = None,
    printed: Printed | None = None,
    verbose: bool = False,
) -> SweepSummary | SentCommand:
    """Find the best values of fields of a job, in trials that run side by side.

    A trial has one worker, whatever the job says, unless an override says otherwise.

    Args:
        params: what varies, as ``--param`` of the command: ``lr``, ``recipe.lr=log:1e-5:1e-2``,
            ``model.method=grid:none,ltm``.
        objectives: ``METRIC`` or ``METRIC:max|min`` each; ``val/top1`` if left out.
        search: ``optuna``, ``random`` or ``grid``; what goes with ``params`` if left out.
        trials: how many; 8 if left out, and of a grid all.
        scheduler: ``none``, ``asha`` or ``median`` stop trials early that are worse than others.
        grace: epochs that every trial has before that.
        seed: of the search.
        protocol: ``published`` tunes as the paper does.
        name: of the sweep; ``<job name>-sweep-<number>`` if left out.
        listener: is called with the sweep's events.

    The others are as of `submit`. Without ``wait`` a cluster's sweep is returned as sent; its
    result, if it is waited for, is available only where it ran.

    Returns:
        What all trials show; its ``best`` is None if none finished.

    Raises:
        UserError: the sweep cannot begin; one sentence says why and what to change.
        KeyboardInterrupt: Ctrl-C, SIGTERM or `stop` ended the sweep, which is closed as KILLED;
            `resume_sweep` continues it.
    """
    spec = load(job, overrides)
    if not spec.where("cluster.workers").startswith("--set"):
        spec = spec.replace("cluster.workers", 1)
    if name is not None:
        spec.replace("name", name)  # the same rules
    sweep = Sweep(
        name=name or "",
        job=spec.to_dict(),
        params=tuple(params),
        objectives=tuple(objectives),
        search=search,
        trials=trials,
        scheduler=scheduler,
        grace=grace,
        seed=seed,
        protocol=protocol,
    )
    notices = _check_job(spec, sweep)
    where = address_of(spec, address)
    if kind(where) == Kind.CLUSTER:
        if wait:
            raise UserError(WAIT_FOR_SWEEP.format(address=where))
        return send_tune(sweep, spec, where, notices, verbose=verbose)
    if not wait:
        raise UserError(NOT_SENT.format(option="wait=False"))
    return _start(sweep, spec, where, notices, listener, printed)


def _check_job(job: JobSpec, sweep: Sweep) -> tuple[str, ...]:
    """`check_job` while it is known which file gave what, with every backbone of the sweep."""
    from ltm_platform.checks import check_job

    notices = check_job(job)
    for param in read_stages(sweep)[0].params:
        if param.field == "model.backbone":
            for backbone in param.domain.ends:
                notices += check_job(job.replace("model.backbone", backbone))
    return tuple(dict.fromkeys(notices))


WAIT_FOR_SWEEP = (
    "the sweep would be carried out on {address}, where its result stays: send it with wait=False, "
    "and follow it"
)


def sweep_folder(name: str, uri: str | None) -> tuple[RunFolder, str | None] | None:
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


@overload
def resume_sweep(
    name: str,
    *,
    address: str | None = None,
    wait: Literal[True] = True,
    tracking_uri: str | None = None,
    listener: SweepListener | None = None,
    printed: Printed | None = None,
) -> SweepSummary: ...


@overload
def resume_sweep(
    name: str,
    *,
    address: str | None = None,
    wait: Literal[False],
    tracking_uri: str | None = None,
    verbose: bool = False,
) -> SentCommand: ...


@restored_process()
def resume_sweep(
    name: str,
    *,
    address: str | None = None,
    wait: bool = True,
    tracking_uri: str | None = None,
    listener: SweepListener | None = None,
    printed: Printed | None = None,
    verbose: bool = False,
) -> SweepSummary | SentCommand:
    """Run the trials of a sweep that are left, where it was started.

    Raises:
        UserError: there is no such sweep, it is running or has finished.
        KeyboardInterrupt: as of `tune`.
    """
    found = sweep_folder(name, tracking_uri)
    if found is None:
        raise UserError(f"there is no sweep {name!r} on this machine")
    folder, recorded = found
    where = address_of(None, address or recorded)
    if kind(where) == Kind.CLUSTER:
        if wait:
            raise UserError(WAIT_FOR_SWEEP.format(address=where))
        return send_resume(name, where, verbose=verbose, uri=tracking_uri)
    if not wait:
        raise UserError(NOT_SENT.format(option="wait=False"))
    sweep = Sweep.load(folder.path)
    with ExitStack() as stack:
        stack.enter_context(private_files(sweep.job.get("cluster", {}).get("group")))
        stack.enter_context(folder.locked())
        plan, ray, early_output = _checked(sweep, where, stack, printed)
        return _run(plan, folder, early_output, ray, listener, printed)


def _start(
    sweep: Sweep,
    job: JobSpec,
    address: str,
    notices: tuple[str, ...],
    listener: SweepListener | None,
    printed: Printed | None,
) -> SweepSummary:
    """Check the sweep, give it a name and run it."""
    from ltm_platform.checks import with_absolute_paths

    job = with_absolute_paths(with_run_weights(job))
    store = tracking.tracking_uri(job.tracking.uri)
    if not addresses.has_secret(store):
        job = job.replace("tracking.uri", store)
    sweep = replace(sweep, job=job.to_dict())
    with ExitStack() as stack:
        stack.enter_context(private_files(job.cluster.group))
        plan, ray, early_output = _checked(sweep, address, stack, printed)
        plan = replace(plan, checked=replace(plan.checked, notices=notices + plan.checked.notices))
        folder = RunFolder.reserve(named_as_sweep(job), sweep.name or None)
        sweep = replace(sweep, name=folder.name)
        sweep.save(folder.path)
        stack.enter_context(folder.locked())
        return _run(plan, folder, early_output, ray, listener, printed)


def _checked(
    sweep: Sweep, address: str, stack: ExitStack, printed: Printed | None
) -> tuple[Plan, Session, bytes]:
    """The sweep ready to start, its Ray, and what libraries printed meanwhile.

    A Ray that is there already is joined until the stack ends.
    """
    from ltm_platform.checks import with_notices
    from ltm_platform.tuning.sweep_driver import check_nodes, plan_sweep

    if attach.is_joined():
        raise UserError(
            "this process is connected to a Ray already, in which trials that are interrupted "
            "would go on: call ray.shutdown() first, the sweep starts or joins one itself"
        )
    with temporary_folder("ltm-platform-") as own:
        log = own / "log"
        with captured_output(log, printed):
            ray = stack.enter_context(session(address, needed(JobSpec.from_dict(sweep.job))))
            plan = plan_sweep(sweep, ray.resources)
            plan = replace(plan, checked=with_notices(plan.checked, ray.notices))
            if ray.joined:
                check_nodes(plan)
        return plan, ray, log.read_bytes()


def _run(
    plan: Plan,
    folder: RunFolder,
    early_output: bytes,
    ray: Session,
    listener: SweepListener | None,
    printed: Printed | None,
) -> SweepSummary:
    """What is printed meanwhile goes to the sweep's log."""
    from ltm_platform.tuning.sweep_driver import drive_sweep

    with folder.log.open("ab") as log:
        log.write(early_output)
    notify: Callable[[SweepEvent], None] = shown(listener or _ignore)
    with captured_output(folder.log, printed):
        notify(SweepBegins(plan, folder))
        need = Need(folder.name, ray.resources.cpus, int(ray.resources.gpus))
        own = ray.ray(need, lambda missing: notify(Waiting(missing)))
        with notifying(plan.checked.job, folder):
            return drive_sweep(plan, folder, own, notify)


def _ignore(_: SweepEvent) -> None:
    """No listener was given."""
