"""Train a job, from its start or from where it stopped."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from ltm_platform import checks, tracking
from ltm_platform.api.jobs import address_of, load
from ltm_platform.api.output import captured_output, shown
from ltm_platform.api.process import restored_process
from ltm_platform.api.sending import send_resume, send_submit
from ltm_platform.api.values import Checkpoint, RunBegins, RunEvent, RunResult, SentCommand
from ltm_platform.errors import RunError, UserError
from ltm_platform.events import Waiting
from ltm_platform.job import JobSpec, changes
from ltm_platform.ray_cluster import attach
from ltm_platform.ray_cluster.address import Kind, kind
from ltm_platform.ray_cluster.forked_workers import needed
from ltm_platform.ray_cluster.machine.claims import Need
from ltm_platform.ray_cluster.session import Session, session
from ltm_platform.runs import lookup
from ltm_platform.runs.checkpoint_lookup import checkpoint_tag, with_run_weights
from ltm_platform.storage import addresses
from ltm_platform.storage.checkpoints import BEST_METRIC
from ltm_platform.storage.permissions import private_files
from ltm_platform.storage.resume_plan import plan_to_resume, repaired_job, restored_folder
from ltm_platform.storage.run_folder import Resume, RunFolder
from ltm_platform.temporary import temporary_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ltm_platform.api.values import Printed, RunListener
    from ltm_platform.checks import CheckedJob
    from ltm_platform.runs.driver import Outcome
    from ltm_platform.storage.resume_plan import ResumePlan
    from ltm_platform.tracking import RunRecord

NOT_SENT = (
    "this is carried out by this process, but {option} is for a cluster: "
    "'ltm-platform cluster up --local' keeps a Ray on this machine that outlives it"
)


@overload
def submit(
    job: JobSpec | str | Path,
    *,
    overrides: Sequence[str] = (),
    name: str | None = None,
    address: str | None = None,
    wait: Literal[True] = True,
    variables: Sequence[str] = (),
    typed: Sequence[str] = (),
    force: bool = False,
    listener: RunListener | None = None,
    printed: Printed | None = None,
) -> RunResult: ...


@overload
def submit(
    job: JobSpec | str | Path,
    *,
    overrides: Sequence[str] = (),
    name: str | None = None,
    address: str | None = None,
    wait: Literal[False],
    variables: Sequence[str] = (),
    typed: Sequence[str] = (),
    force: bool = False,
    verbose: bool = False,
) -> SentCommand: ...


@restored_process()
def submit(
    job: JobSpec | str | Path,
    *,
    overrides: Sequence[str] = (),
    name: str | None = None,
    address: str | None = None,
    wait: bool = True,
    variables: Sequence[str] = (),
    typed: Sequence[str] = (),
    force: bool = False,
    listener: RunListener | None = None,
    printed: Printed | None = None,
    verbose: bool = False,
) -> RunResult | SentCommand:
    """Train a job on Ray workers with DeepSpeed, recorded in MLflow.

    Args:
        job: a job file, a bundled job by its name, or a job.
        overrides: ``section.key=value`` each.
        name: of the run; ``<job name>-<number>`` if left out.
        address: of the Ray to use, as the job's ``cluster.address``; see `address_of`.
        wait: until the run has ended; else only a cluster takes it.
        variables: names of environment variables that a cluster is given, too.
        typed: the command that a cluster's run shows as the one to type again.
        force: start even though a check says it cannot work.
        listener: is called with the run's events. What it raises fails the run.
        printed: is called with what libraries print; without it, that is in the run's log alone.
            Of a run on a cluster, what that prints.
        verbose: the output of a run on a cluster includes what libraries print there.

    Raises:
        UserError: the job cannot run; one sentence says why and what to change. Nothing of it is
            recorded.
        RunError: a rank failed; the run is closed as FAILED.
        KeyboardInterrupt: Ctrl-C, SIGTERM or `stop` ended the run, which is closed as KILLED;
            `resume` continues it. A run on a cluster keeps running after Ctrl-C.
    """
    spec = load(job, overrides)
    if name is not None:
        spec = spec.replace("name", name)
    where = address_of(spec, address)
    if kind(where) == Kind.CLUSTER:
        sent = send_submit(
            spec,
            where,
            name=name,
            force=force,
            verbose=verbose or printed is not None,
            variables=variables,
            typed=typed,
        )
        return _awaited(sent, spec.tracking.uri, printed) if wait else sent
    if not wait or variables:
        raise UserError(NOT_SENT.format(option="variables" if wait else "wait=False"))
    with ExitStack() as stack:
        stack.enter_context(private_files(spec.cluster.group))
        checked, ray, early_output = _checked(spec, where, stack, force=force, printed=printed)
        folder = RunFolder.reserve(checked.job, name)
        stack.enter_context(folder.locked())
        return _run(checked, folder, early_output, ray, listener, printed)


@overload
def resume(
    name: str,
    *,
    start: str | None = None,
    overrides: Sequence[str] = (),
    address: str | None = None,
    wait: Literal[True] = True,
    force: bool = False,
    tracking_uri: str | None = None,
    listener: RunListener | None = None,
    printed: Printed | None = None,
) -> RunResult: ...


@overload
def resume(
    name: str,
    *,
    start: str | None = None,
    overrides: Sequence[str] = (),
    address: str | None = None,
    wait: Literal[False],
    force: bool = False,
    tracking_uri: str | None = None,
    verbose: bool = False,
) -> SentCommand: ...


@restored_process()
def resume(
    name: str,
    *,
    start: str | None = None,
    overrides: Sequence[str] = (),
    address: str | None = None,
    wait: bool = True,
    force: bool = False,
    tracking_uri: str | None = None,
    listener: RunListener | None = None,
    printed: Printed | None = None,
    verbose: bool = False,
) -> RunResult | SentCommand:
    """Train a run that stopped from its last checkpoint to the end, where it ran; or one that has
    finished further, with more ``recipe.epochs``.

    Args:
        name: of the run.
        start: an earlier checkpoint to resume from, by its name.
        tracking_uri: MLflow's store that has the run; as of `runs`.

    The others are as of `submit`, and so are the errors, besides these.

    Raises:
        UserError: there is no such run or checkpoint, it is running, or has finished and is given
            no more epochs, or an override would make it another run; or it is a sweep, see
            `resume_sweep`.
    """
    found = lookup.locate(name, tracking_uri, address)
    where = address_of(None, address or found.address)
    if kind(where) == Kind.CLUSTER:
        sent = send_resume(
            name,
            where,
            start=start,
            overrides=overrides,
            force=force,
            verbose=verbose or printed is not None,
            uri=tracking_uri,
        )
        return _awaited(sent, tracking_uri, printed) if wait else sent
    if not wait:
        raise UserError(NOT_SENT.format(option="wait=False"))
    store = tracking.tracking_uri(tracking_uri)
    record = tracking.find_run(store, name)
    folder = _stopped(record)
    repaired = repaired_job(folder, record.run_id)
    before = JobSpec.load_stored(folder.job)
    checks.check_storage(before)
    job = JobSpec.load_stored(folder.job, overrides)
    changed = changes(before, job)
    longer = _longer(record, before, job)
    with ExitStack() as stack:
        stack.enter_context(private_files(job.cluster.group))
        stack.enter_context(folder.locked())
        folder.belongs_to(record.run_id)
        plan = plan_to_resume(folder, start, record.run_id, job.checkpoint.keep)
        if addresses.has_secret(store):
            os.environ[tracking.URI_VARIABLE] = store  # not into the job file
        else:
            job = job.replace("tracking.uri", store)
        there = sum(size for _, size in folder.storage.files(recursive=True))
        checked, ray, early_output = _checked(
            job, where, stack, force=force, printed=printed, stored=there
        )
        checked = checks.with_notices(checked, filter(None, (repaired, longer, *plan.notices)))
        again = Resume(record.run_id, changed, rewound=start is not None)
        return _run(checked, folder, early_output, ray, listener, printed, again, plan)


def _stopped(record: RunRecord) -> RunFolder:
    """The folder of a run that can be resumed here.

    Raises:
        UserError: it is a sweep, or its folder is not on this machine.
    """
    name = record.name
    folder = RunFolder(Path(record.folder or ""))
    if folder.is_sweep:
        raise UserError(f"{name!r} is a sweep: api.resume_sweep goes on with it")
    if record.folder and folder.job.exists():
        return folder
    again = restored_folder(name, record.params.get("cluster.storage", ""), record.run_id)
    if again:
        return again
    if record.folder and folder.path.is_dir():
        return folder
    finished = "has finished, and " if record.status == "FINISHED" else ""
    raise UserError(f"the run {name!r} {finished}has no folder at {record.folder} on this machine")


def _longer(record: RunRecord, before: JobSpec, job: JobSpec) -> str | None:
    """A notice of what happens to the learning rate of a finished run that is trained further.

    Raises:
        UserError: it is not to be trained any further.
    """
    if record.status != "FINISHED":
        return None
    done, epochs = before.recipe.epochs, job.recipe.epochs
    if epochs <= done:
        raise UserError(
            f"the run {record.name!r} has finished its {done} epochs: there is nothing to go on "
            f"with but more of them, such as --set recipe.epochs={2 * done}"
        )
    from ltm_platform.training.recipe.optimization import rate_after

    return (
        f"the learning rate follows the schedule of {epochs} epochs from here: it is "
        f"{rate_after(job.recipe, done):.3g}, and was {rate_after(before.recipe, done):.3g} at the "
        f"end of {done}"
    )


def _checked(
    job: JobSpec,
    address: str,
    stack: ExitStack,
    *,
    force: bool,
    printed: Printed | None,
    stored: int = 0,
) -> tuple[CheckedJob, Session, bytes]:
    """The job ready to start, its Ray, and what libraries printed meanwhile: there is no log yet.

    A Ray that is there already is joined until the stack ends, and all of its nodes are checked.
    """
    with temporary_folder("ltm-platform-") as own:
        log = own / "log"
        with captured_output(log, printed):
            job = with_run_weights(job)
            ray = stack.enter_context(session(address, needed(job)))
            checked = checks.check(job, ray.resources, force=force, stored=stored)
            checked = checks.with_notices(checked, ray.notices)
            if ray.joined:
                collector = checks.ErrorCollector(force)
                with collector():
                    attach.check_shared_storage(checked.job)
                checked = checks.with_problems(checked, collector.problems)
        return checked, ray, log.read_bytes()


def _run(
    checked: CheckedJob,
    folder: RunFolder,
    early_output: bytes,
    ray: Session,
    listener: RunListener | None,
    printed: Printed | None,
    resume: Resume | None = None,
    plan: ResumePlan | None = None,
) -> RunResult:
    """One run from its start to its result; what is printed meanwhile goes to the run's log."""
    folder.write_job(checked.job.to_yaml())
    with folder.log.open("ab") as log:
        log.write(early_output)
    store = tracking.tracking_uri(checked.job.tracking.uri)
    notify: Callable[[RunEvent], None] = shown(listener or _ignore)
    workers = checked.batch.workers
    cpus = workers * checked.job.cluster.cpus_per_worker
    need = Need(folder.name, cpus, workers if checked.use_gpu else 0)
    with captured_output(folder.log, printed):
        notify(RunBegins(checked, folder))
        if plan:
            plan.carry_out()  # what it removes has been said
        connecting = tracking.connect_meanwhile(store)
        try:
            with ray.ray(need, lambda missing: notify(Waiting(missing))) as own:
                connecting.join()
                from ltm_platform.runs.driver import drive

                outcome = drive(
                    checked,
                    folder,
                    notify,
                    resume=resume,
                    ray_stays=ray.stays,
                    renew=own.renew if own else None,
                )
        except RunError as error:
            error.log = folder.log
            raise
        finally:
            connecting.join()
    return _result(outcome, folder, store)


def _ignore(_: RunEvent) -> None:
    """No listener was given."""


def _result(outcome: Outcome, folder: RunFolder, store: str) -> RunResult:
    best, last = (Checkpoint(str(c.source), c.top1) for c in (outcome.best, outcome.last))
    return RunResult(
        name=folder.name,
        metrics=dict(outcome.metrics),
        best=best,
        last=last,
        folder=folder.path,
        run_id=outcome.run_id,
        tracking_uri=store,
    )


def _awaited(sent: SentCommand, uri: str | None, printed: Printed | None) -> RunResult:
    """The result of a run on a cluster, as recorded in MLflow."""
    sent.wait(printed)
    store = tracking.tracking_uri(uri)
    record = tracking.find_run(store, sent.run)
    curve = tracking.read_curves(store, record.run_id, [BEST_METRIC])[BEST_METRIC]
    best = max((point.value for point in curve), default=None)
    return RunResult(
        name=sent.run,
        metrics=record.metrics,
        best=Checkpoint(record.tags.get(checkpoint_tag("best"), ""), best),
        last=Checkpoint(
            record.tags.get(checkpoint_tag("last"), ""), record.metrics.get(BEST_METRIC)
        ),
        folder=Path(record.folder or ""),
        run_id=record.run_id,
        tracking_uri=store,
    )
