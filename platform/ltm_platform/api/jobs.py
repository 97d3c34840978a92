"""A job before it runs, and where it will."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltm_platform.api.output import captured_output
from ltm_platform.api.process import restored_process
from ltm_platform.job import JobSpec
from ltm_platform.job.load import bundled_folder
from ltm_platform.ray_cluster import attach
from ltm_platform.ray_cluster.address import JOINED, Kind, find_address, kind
from ltm_platform.temporary import temporary_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ltm_platform.api.values import Printed
    from ltm_platform.checks.run_plan import RunPlan
    from ltm_platform.job import Model


def load(job: JobSpec | str | Path, overrides: Sequence[str] = ()) -> JobSpec:
    """A job file, or a bundled job by its name, with ``section.key=value`` overrides; a job is
    changed by them, too.

    Raises:
        UserError: with one sentence a line for everything that is wrong.
    """
    return job.overridden(overrides) if isinstance(job, JobSpec) else JobSpec.load(job, overrides)


@dataclass(frozen=True, slots=True)
class BundledJob:
    """A job file that comes with the package."""

    name: str
    """As `submit` takes it."""
    backbone: str
    method: str
    budget: str
    """What the network may cost, in words."""
    epochs: int
    pretrained: bool
    """Whether it begins with timm's published weights."""


def bundled_jobs() -> list[BundledJob]:
    """The job files that come with the package, by their names."""
    found = []
    for file in sorted(bundled_folder().glob("*.yaml")):
        job = JobSpec.load(file)
        model = job.model
        found.append(
            BundledJob(
                name=file.stem,
                backbone=model.backbone,
                method=model.method,
                budget=_budget(model),
                epochs=job.recipe.epochs,
                pretrained=model.pretrained,
            )
        )
    return found


def _budget(model: Model) -> str:
    if model.compression_ratio is not None:
        return f"{model.compression_ratio:g} of the tokens"
    if model.target_gmacs is not None:
        return f"{model.target_gmacs:g} GMACs"
    if model.plan is not None:
        return ", ".join(f"{kept} at {site}" for site, kept in model.plan.items())
    if "r" in model.options:
        return f"{model.options['r']} fewer tokens a block"
    return "its default plan"


@restored_process()
def validate(
    job: JobSpec | str | Path,
    *,
    overrides: Sequence[str] = (),
    address: str | None = None,
    note: Callable[[str], None] | None = None,
) -> JobSpec:
    """The job with every default filled in, after all checks of `submit` that cost nothing. Nothing
    is started, and nothing is written.

    note: is called with a sentence for what is worth a word, and with one for what was not checked.

    Raises:
        UserError: with one sentence a line for everything that is wrong.
    """
    from ltm_platform.checks import Findings, check_here, check_job, check_network
    from ltm_platform.ray_cluster.embedded import this_machine
    from ltm_platform.runs.checkpoint_lookup import with_run_weights

    spec = load(job, overrides)
    where = address_of(spec, address)
    if kind(where) == Kind.CLUSTER:
        notices = check_job(spec)
        check_network(spec)
        found = Findings(notices, (f"what is on {where}: data, storage and workers",))
    else:
        spec = with_run_weights(spec)
        found = check_here(spec, this_machine() if kind(where) == Kind.EMBEDDED else None)
    for sentence in (*found.notices, f"not checked: {'; '.join(found.left_out)}"):
        if note:
            note(sentence)
    return spec


def address_of(job: JobSpec | None, address: str | None = None) -> str:
    """The Ray that a job goes to: ``address``, else the job's ``cluster.address``, else the one
    that this process is connected to, else ``RAY_ADDRESS``, else that of ``cluster up --local``,
    else one of its own.

    Raises:
        UserError: it is no address.
    """
    own = address or (job is not None and job.cluster.address)
    return JOINED if not own and attach.is_joined() else find_address(address, job)


def goes_to_cluster(job: JobSpec | None, address: str | None = None) -> bool:
    """Whether it is sent there, to be run by other processes than this one.

    Raises:
        UserError: as of `address_of`.
    """
    return kind(address_of(job, address)) == Kind.CLUSTER


@restored_process()
def plan(
    job: JobSpec | str | Path,
    *,
    overrides: Sequence[str] = (),
    address: str | None = None,
    printed: Printed | None = None,
) -> RunPlan:
    """What the job would take, and in ``checked.problems`` why it could not start. Nothing is
    started; a Ray that is there is joined meanwhile.

    Raises:
        UserError: the job is wrong in a way that nothing could override, or its address is that of
            a cluster's Jobs API: `plan_there` asks that.
    """
    from ltm_platform.checks.run_plan import plan_run
    from ltm_platform.errors import UserError
    from ltm_platform.runs.checkpoint_lookup import with_run_weights

    spec = load(job, overrides)
    where = address_of(spec, address)
    if kind(where) == Kind.CLUSTER:
        raise UserError(f"what is free on {where} is known there alone: ask plan_there")
    with (
        temporary_folder("ltm-platform-") as folder,
        captured_output(folder / "log", printed),
    ):
        return plan_run(with_run_weights(spec), where)
