"""A job tried in a few steps where it is to run, before it is trained."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ltm_platform import tracking
from ltm_platform.api.jobs import address_of, load
from ltm_platform.api.process import restored_process
from ltm_platform.api.sending import send_submit
from ltm_platform.api.training import resume, submit
from ltm_platform.api.values import RunBegins, Smoke
from ltm_platform.errors import UserError
from ltm_platform.events import Decided, EpochEnded, StoppedOnRequest
from ltm_platform.ray_cluster.address import Kind, kind
from ltm_platform.runs.rehearsal import forecast, rehearsal_job
from ltm_platform.runs.removal import clear

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ltm_platform.api.values import Printed, RunEvent, RunListener, SentCommand
    from ltm_platform.checks import CheckedJob
    from ltm_platform.job import JobSpec
    from ltm_platform.storage.run_folder import RunFolder


@restored_process()
def smoke(
    job: JobSpec | str | Path,
    *,
    overrides: Sequence[str] = (),
    name: str | None = None,
    address: str | None = None,
    force: bool = False,
    listener: RunListener | None = None,
    printed: Printed | None = None,
) -> Smoke:
    """Try a job: three steps, three batches of validation, a checkpoint and a resume from it, with
    its own workers, precision and data, in its storage and its tracking store. Nothing of it stays.

    The listener gets the events of both parts; the others are as of `submit`, and so are the
    errors. Where it fails, its log stays.

    Raises:
        UserError: its address is that of a cluster's Jobs API: `smoke_there` asks that.
    """
    spec = load(job, overrides)
    where = address_of(spec, address)
    if kind(where) == Kind.CLUSTER:
        raise UserError(f"what runs on {where} is tried there: ask smoke_there")
    tried = rehearsal_job(spec)
    store = tracking.tracking_uri(spec.tracking.uri)
    seen = _Seen(listener)
    options: dict[str, Any] = {"force": force, "listener": seen, "printed": printed}
    try:
        try:
            submit(tried, name=name, address=address, **options)
        except KeyboardInterrupt:
            if not seen.stopped:
                raise
        again = address or spec.cluster.address
        resume(seen.folder.name, address=again, tracking_uri=store, **options)
    except BaseException:
        if seen.begun:
            with suppress(UserError, OSError):  # why it failed is what counts
                clear(seen.folder, store, keep_log=True)
        raise
    clear(seen.folder, store, keep_log=False)
    whole = forecast(seen.checked, spec, seen.metrics, seen.micro_batch)
    return Smoke(seen.folder.name, spec.recipe.epochs, seen.checked, whole)


class _Seen:
    """Passes events on, asks the run to stop after its first epoch, and keeps what it showed."""

    def __init__(self, listener: RunListener | None) -> None:
        self._listener = listener
        self.begun: RunBegins | None = None
        self.stopped = False
        self.metrics: dict[str, float] = {}
        self.micro_batch = 0

    @property
    def folder(self) -> RunFolder:
        assert self.begun
        return self.begun.folder

    @property
    def checked(self) -> CheckedJob:
        assert self.begun
        return self.begun.checked

    def __call__(self, event: RunEvent) -> None:
        match event:
            case RunBegins():
                if self.begun is None:
                    event.folder.request_stop()
                self.begun, self.micro_batch = event, event.checked.batch.micro_batch
            case StoppedOnRequest():
                self.stopped = True
            case EpochEnded():
                self.metrics.update(event.metrics)
            case Decided(name="micro_batch"):
                self.micro_batch = int(event.value)
            case _:
                pass
        if self._listener:
            self._listener(event)


@restored_process()
def smoke_there(
    job: JobSpec | str | Path,
    *,
    overrides: Sequence[str] = (),
    name: str | None = None,
    address: str | None = None,
    variables: Sequence[str] = (),
    force: bool = False,
    verbose: bool = False,
) -> SentCommand:
    """`smoke` on a cluster, which prints what it shows.

    Raises:
        UserError: as of `submit`, or the address is no cluster's.
    """
    spec = load(job, overrides)
    return send_submit(
        spec,
        address_of(spec, address),
        name=name,
        force=force,
        verbose=verbose,
        variables=variables,
        typed=(),
        smoke=True,
    )
