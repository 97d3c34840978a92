"""All checks of a job, and the values that they resolve."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ltm_platform.checks.images import check_cache, check_data, check_sample, with_fitting_batch
from ltm_platform.checks.model import check_names, check_teacher, with_model
from ltm_platform.checks.resources import check_compiler, check_workers, workers_now
from ltm_platform.checks.stores import (
    check_no_keys,
    check_storage,
    check_tracking,
    with_absolute_paths,
)
from ltm_platform.checks.training import check_precision, check_recipe
from ltm_platform.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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
    notices: tuple[str, ...]
    problems: tuple[str, ...] = ()
    """Why it should not start, if that was overridden."""


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


def check(job: JobSpec, resources: Resources, *, force: bool = False) -> CheckedJob:
    """Resolve the job against resources, data and the model library.

    The cheap checks come first, so that a mistake is reported before anything heavy is imported.
    With ``force`` what may be corrected meanwhile is no error, but one of `CheckedJob.problems`.

    Raises:
        UserError: the job cannot run; one sentence says why and what to change.
    """
    check_no_keys(job)
    collector = ErrorCollector(force)
    with collector():
        check_tracking(job)
    with collector():
        check_storage(job)
    use_gpu = resources.gpus >= 1
    if job.cluster.workers == "auto":
        workers = resources.auto_workers(job.cluster.cpus_per_worker)
        job = job.replace("cluster.workers", workers)
    with collector():
        check_workers(job, resources)
        check_compiler(job, resources)
    check_names(job)
    dataset = check_data(job)
    check_cache(job)
    with collector():
        check_sample(job, dataset)
    job, notices = with_fitting_batch(job, dataset)
    check_recipe(job)
    check_precision(job, use_gpu=use_gpu)
    if job.engine.offload != "none" and not use_gpu:
        notices += ("engine.offload saves nothing here: without GPUs all is on the CPU",)
    job = with_absolute_paths(job)
    job, cost, base_cost, notes = with_model(job, len(dataset.classes))
    check_teacher(job, len(dataset.classes))
    return CheckedJob(
        job=job,
        batch=job.batch(workers_now(job, resources)),
        use_gpu=use_gpu,
        dataset=dataset,
        cost=cost,
        base_cost=base_cost,
        notices=notices + notes,
        problems=tuple(collector.problems),
    )


def with_notices(checked: CheckedJob, further: Iterable[str]) -> CheckedJob:
    """The same with more to say before it starts."""
    return replace(checked, notices=checked.notices + tuple(further))


def with_problems(checked: CheckedJob, further: Iterable[str]) -> CheckedJob:
    """The same with more reasons not to start, which were overridden."""
    return replace(checked, problems=checked.problems + tuple(further))
