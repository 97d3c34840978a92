"""All checks of a job, and the values that they resolve."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ltm_platform.checks.batch import (
    check_pairs,
    with_fitting_batch,
    with_workers,
)
from ltm_platform.checks.images import check_cache, check_data, check_sample, check_source
from ltm_platform.checks.model import (
    check_files,
    check_names,
    check_network,
    check_size,
    check_teacher,
    with_model,
)
from ltm_platform.checks.notify import check_notify
from ltm_platform.checks.resources import (
    check_accelerator,
    check_compiler,
    check_workers,
    workers_now,
)
from ltm_platform.checks.stores import (
    check_local,
    check_no_keys,
    check_room,
    check_storage,
    check_tracking,
    with_absolute_paths,
)
from ltm_platform.checks.training import (
    check_deepspeed,
    check_precision,
    check_recipe,
    for_device,
    warmup_notices,
)
from ltm_platform.errors import UserError
from ltm_platform.storage.path import is_address

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import ltm
    from ltm_platform.data import Dataset
    from ltm_platform.job import BatchPlan, JobSpec
    from ltm_platform.ray_cluster.resources import Resources


@dataclass(frozen=True, slots=True)
class CheckedJob:
    """A job that passed all checks, with what they decided."""

    job: JobSpec
    """Resolved: absolute paths, a number of workers, a batch that fits the data."""
    batch: BatchPlan
    use_gpu: bool
    dataset: Dataset
    cost: ltm.Count
    base_cost: ltm.Count
    plan: Mapping[str, Any]
    """What every site of the network keeps, or every part of it."""
    kept_tokens: float | None
    """The fraction that all merges together leave; None where no tokens leave."""
    notices: tuple[str, ...]
    problems: tuple[str, ...] = ()
    """Why it should not start, if that was overridden."""
    storage_s: float = 0.0
    """Seconds to write, read back and remove a file where runs are stored; 0 where that failed."""

    @property
    def chosen_plan(self) -> Mapping[str, Any] | None:
        """The plan, where the job leaves it to a ratio, a budget or the default."""
        return self.plan if self.job.model.plan is None and self.plan else None


@dataclass(slots=True)
class ErrorCollector:
    """Collects what is wrong where ``force`` overrides it, and raises it where not."""

    force: bool
    problems: list[str] = field(default_factory=list)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        try:
            yield
        except UserError as error:
            if not self.force:
                raise
            self.problems.append(str(error))


def check_job(job: JobSpec) -> tuple[str, ...]:
    """The checks that need no data and no machine but this process: what the job itself says.

    Returns notices.

    Raises:
        UserError: the job cannot run anywhere.
    """
    check_no_keys(job)
    check_local(job)
    check_names(job)
    notices = check_size(job)
    check_recipe(job)
    check_pairs(job)
    check_notify(job)
    return notices + warmup_notices(job)


@dataclass(frozen=True, slots=True)
class Findings:
    """What checks that cost nothing found in a job that passed them."""

    notices: tuple[str, ...]
    left_out: tuple[str, ...]
    """What they do not check, and `check` does."""


def check_here(job: JobSpec, resources: Resources | None) -> Findings:
    """`check_job`, and what of `check` costs nothing: no image is read, no weights are loaded, no
    server is asked, and nothing stays written.

    resources: of this machine; None where Ray knows them.

    Raises:
        UserError: as of `check`.
    """
    notices, left_out = check_job(job), []
    if resources is None:
        left_out.append("workers, since Ray alone knows what is free")
    else:
        job = with_workers(job, resources)
        check_pairs(job)
        check_workers(job, resources)
        check_accelerator(job, resources)
        check_compiler(job, resources)
        check_precision(job, use_gpu=resources.gpus >= 1)
    if (job.tracking.uri or "").startswith("http"):
        left_out.append("the tracking server")
    else:
        check_tracking(job)
    if job.cluster.storage and is_address(job.cluster.storage):
        left_out.append("cluster.storage")
    else:
        check_storage(job)
    check_files(job)
    if is_address(job.data.path):
        left_out.append("data.path")
        check_network(job)
    else:
        left_out.append("the images of data.path")
        check_cache(job)
        check_network(job, len(check_source(job)))
    if job.model.pretrained or job.model.checkpoint or job.recipe.distill.teacher:
        left_out.append("the weights of the network or its teacher")
    return Findings(notices, tuple(left_out))


def check(
    job: JobSpec, resources: Resources, *, force: bool = False, stored: int = 0
) -> CheckedJob:
    """Resolve the job against resources, data and the model library.

    The cheap checks come first, so that a mistake is reported before anything heavy is imported.
    With ``force`` what may be corrected meanwhile is no error, but one of `CheckedJob.problems`.
    ``stored``: bytes of the run's checkpoints that are on the disk already.

    Raises:
        UserError: the job cannot run; one sentence says why and what to change.
    """
    first_notices = check_job(job)
    collector = ErrorCollector(force)
    with collector():
        check_tracking(job)
    storage_s = 0.0
    with collector():
        storage_s = check_storage(job)
    use_gpu = resources.gpus >= 1
    job = with_workers(job, resources)
    with collector():
        check_workers(job, resources)
        check_accelerator(job, resources)
        check_compiler(job, resources)
    check_files(job)
    dataset = check_data(job)
    check_cache(job)
    with collector():
        check_sample(job, dataset)
    job, notices = with_fitting_batch(job, len(dataset.train))
    check_precision(job, use_gpu=use_gpu)
    check_deepspeed(job)
    job = for_device(job, use_gpu=use_gpu)
    if job.engine.offload != "none" and not use_gpu:
        notices += ("engine.offload saves nothing here: without GPUs all is on the CPU",)
    job = with_absolute_paths(job)
    job, network = with_model(job, len(dataset.classes))
    cost = network.cost
    check_teacher(job, len(dataset.classes))
    with collector():
        check_room(job, round(cost.params_m * 1e6), job.cluster.worker_range[1], stored)
    return CheckedJob(
        job=job,
        batch=job.batch(workers_now(job, resources)),
        use_gpu=use_gpu,
        dataset=dataset,
        cost=cost,
        base_cost=network.base_cost,
        plan=network.plan,
        kept_tokens=network.kept_tokens,
        notices=(
            *first_notices,
            *(f"data.path: {one}" for one in dataset.notices),
            *notices,
            *network.notices,
        ),
        problems=tuple(collector.problems),
        storage_s=storage_s,
    )


def with_notices(checked: CheckedJob, further: Iterable[str]) -> CheckedJob:
    """The same with more to say before it starts."""
    return replace(checked, notices=checked.notices + tuple(further))


def with_problems(checked: CheckedJob, further: Iterable[str]) -> CheckedJob:
    """The same with more reasons not to start, which were overridden."""
    return replace(checked, problems=checked.problems + tuple(further))
