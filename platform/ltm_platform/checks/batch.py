"""How the global batch is divided: by the workers that there is room for, by the images there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ltm_platform.job.batch import largest_batch, wastes_passes

if TYPE_CHECKING:
    from torch import nn

    from ltm_platform.job import JobSpec
    from ltm_platform.ray_cluster.resources import Resources

Notices = tuple[str, ...]


def with_workers(job: JobSpec, resources: Resources) -> JobSpec:
    """The job with a number of workers in the place of ``auto``."""
    if job.cluster.workers != "auto":
        return job
    its = job.cluster
    workers = resources.auto_workers(its.cpus_per_worker, its.gpus_per_worker)
    return job.replace("cluster.workers", workers)


def with_fitting_batch(job: JobSpec, images: int) -> tuple[JobSpec, Notices]:
    """A training set smaller than one global batch is trained on as one batch, with a notice.

    Raises:
        UserError: there are fewer images than workers, or pairs of them are mixed and some worker
            takes an odd number.
    """
    notices: Notices = ()
    if images < job.recipe.global_batch:
        workers, limit = job.cluster.worker_range, job.micro_limit
        sizes = (largest_batch(images, limit, workers, even=e) for e in (_mixes(job), False))
        largest = next(filter(None, sizes), None)
        if largest is None:
            shown = workers[1] if workers[0] == workers[1] else list(workers)
            raise job.error(
                "cluster.workers",
                f"cluster.workers is {shown}, but the training set has only {images} images",
            )
        notices = (
            f"recipe.global_batch is {largest} instead of {job.recipe.global_batch}: "
            f"the training set has only {images} images",
        )
        job = job.replace("recipe.global_batch", largest)
    check_pairs(job)
    return job, notices + _small_passes(job)


def check_pairs(job: JobSpec) -> None:
    """Check that every worker has pairs of images to mix.

    Raises:
        UserError: it takes an odd number at a time.
    """
    if not _mixes(job):
        return
    fewest, most = job.cluster.worker_range
    for workers in range(fewest, most + 1):
        plan = job.batch(workers)
        if plan.micro_batch % 2:
            share = plan.micro_batch * plan.accumulation
            key, taken = ("recipe.global_batch", share) if share % 2 else ("recipe.micro_batch", 1)
            raise job.error(
                key, f"recipe.mix mixes pairs of images, but each worker takes {taken} at a time"
            )


def norm_notices(job: JobSpec, model: nn.Module) -> Notices:
    """A notice where the number of workers changes what batch normalisation sees.

    Workers whose micro-batches are smaller than one worker's share their statistics; that is
    possible where whole groups of them make up the micro-batch of one.
    """
    from ltm_platform.training.engine.sync_bn import has_batch_norm, strange_norm

    if job.recipe.sync_bn or job.micro_limit is None or not has_batch_norm(model):
        return ()
    fewest, most = job.cluster.worker_range
    shares = strange_norm(model) is None
    of_one = job.batch(1).micro_batch
    for workers in range(fewest, most + 1):
        plan = job.batch(workers)
        seen = plan.micro_batch * (plan.norm_group if shares else 1)
        if seen != of_one:
            return (
                f"batch normalisation takes its statistics over {seen} images with {workers} "
                f"workers, but over {of_one} with one",
            )
    return ()


def _small_passes(job: JobSpec) -> Notices:
    fewest, most = job.cluster.worker_range
    for workers in range(fewest, most + 1):
        plan = job.batch(workers)
        if wastes_passes(plan, job.micro_limit):
            share = plan.micro_batch * plan.accumulation
            return (
                f"each of {workers} workers takes {plan.micro_batch} images at a time: its share "
                f"of {share} divides by no larger number up to recipe.micro_batch "
                f"{job.micro_limit}",
            )
    return ()


def _mixes(job: JobSpec) -> bool:
    return job.recipe.mix.enabled
