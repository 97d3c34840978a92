"""Everything that can be known to be wrong before a worker is taken."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ltm_platform import paths, tracking
from ltm_platform.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import ltm
    from ltm_platform.data import Dataset
    from ltm_platform.job import BatchPlan, JobSpec


@dataclass(frozen=True, slots=True)
class Resources:
    """What can be taken: a machine's, or a cluster's."""

    cpus: float
    gpus: float


@dataclass(frozen=True, slots=True)
class Ready:
    """A job that can start, with all that was decided on the way."""

    job: JobSpec
    """Resolved: absolute paths, a number of workers, a batch that fits the data."""
    batch: BatchPlan
    use_gpu: bool
    dataset: Dataset
    cost: ltm.Count
    base_cost: ltm.Count
    notices: tuple[str, ...]


def check(job: JobSpec, resources: Resources) -> Ready:
    """Resolve the job against this machine, its data and the model library.

    The cheap checks come first, so that a mistake is told before anything heavy is imported.

    Raises:
        UserError: the job cannot run; one sentence says why and what to change.
    """
    _check_tracking(job)
    _check_storage(job)
    job, use_gpu = _with_workers(job, resources)
    check_names(job)
    dataset = _open_dataset(job)
    job, notices = _with_fitting_batch(job, dataset)
    _check_recipe(job)
    job = _with_absolute_paths(job)
    job, cost, base_cost = _with_model(job, len(dataset.classes))
    return Ready(
        job=job,
        batch=job.batch(int(job.cluster.workers)),
        use_gpu=use_gpu,
        dataset=dataset,
        cost=cost,
        base_cost=base_cost,
        notices=notices,
    )


def check_names(job: JobSpec) -> None:
    """The backbone and the method exist.

    Raises:
        UserError: the nearest right spelling is given.
    """
    from ltm.backbones import find_backbone
    from ltm.methods import check_method

    with _located(job):
        find_backbone(job.model.backbone)
        check_method(job.model.method)


@contextmanager
def _located(job: JobSpec) -> Iterator[None]:
    """The model library's complaints, which begin with a field's name, as errors of the job."""
    try:
        yield
    except ValueError as error:
        field = str(error).split()[0]
        if field == "option":
            raise job.error("model.options", f"model.options: {error}") from None
        if field in type(job.model).model_fields:
            raise job.error(f"model.{field}", f"model.{error}") from None
        raise job.error("model", f"model: {error}") from None
    except (RuntimeError, OSError) as error:
        if not job.model.pretrained:
            raise
        key = "model.pretrained"
        reason = str(error).splitlines()[0]
        raise job.error(
            key, f"{key} is true, but there are no published weights to be had: {reason}"
        ) from None


def _check_tracking(job: JobSpec) -> None:
    try:
        tracking.check_reachable(tracking.tracking_uri(job.tracking.uri))
    except UserError as error:
        raise (job.error("tracking.uri", str(error)) if job.tracking.uri else error) from None


def _check_storage(job: JobSpec) -> None:
    storage = job.cluster.storage
    if storage and "://" in storage:
        raise job.error(
            "cluster.storage",
            f"cluster.storage is {storage!r}, but must be a folder on this machine "
            f"or on a shared file system",
        )


def _with_workers(job: JobSpec, resources: Resources) -> tuple[JobSpec, bool]:
    """Settle ``cluster.workers`` and see that there is room for them."""
    use_gpu = resources.gpus >= 1
    cpus = job.cluster.cpus_per_worker
    if job.cluster.workers == "auto":
        workers = int(resources.gpus) if use_gpu else min(2, int(resources.cpus // cpus)) or 1
        job = job.replace("cluster.workers", workers)
    workers = int(job.cluster.workers)
    if use_gpu and workers > resources.gpus:
        raise job.error(
            "cluster.workers",
            f"cluster.workers is {workers}, but there are only {resources.gpus:g} GPUs, "
            f"one for a worker",
        )
    if cpus > resources.cpus:
        raise job.error(
            "cluster.cpus_per_worker",
            f"cluster.cpus_per_worker is {cpus:g}, but there are only {resources.cpus:g} CPUs",
        )
    if workers * cpus > resources.cpus:
        raise job.error(
            "cluster.workers",
            f"cluster.workers is {workers} at {cpus:g} CPUs each, "
            f"but there are only {resources.cpus:g} CPUs: take {int(resources.cpus // cpus)} "
            f"workers or fewer, or a smaller cluster.cpus_per_worker",
        )
    return job, use_gpu


def _open_dataset(job: JobSpec) -> Dataset:
    from ltm_platform.data import open_dataset

    try:
        return open_dataset(job.data.path, cache=paths.cache(), val_fraction=job.data.val_fraction)
    except UserError as error:
        raise job.error("data.path", f"data.path: {error}") from None


def _with_fitting_batch(job: JobSpec, dataset: Dataset) -> tuple[JobSpec, tuple[str, ...]]:
    """A training set smaller than one global batch is trained on as one batch, and it is said."""
    workers, images = int(job.cluster.workers), len(dataset.train)
    if images >= job.recipe.global_batch:
        return job, ()
    if images < workers:
        raise job.error(
            "cluster.workers",
            f"cluster.workers is {workers}, but the training set has only {images} images",
        )
    largest = images // workers * workers
    notice = (
        f"recipe.global_batch is {largest} instead of {job.recipe.global_batch}: "
        f"the training set has only {images} images"
    )
    job = job.replace("recipe.micro_batch", None).replace("recipe.global_batch", largest)
    return job, (notice,)


def _check_recipe(job: JobSpec) -> None:
    """timm knows the optimizer, and can read the augmentation."""
    from timm.optim import list_optimizers

    from ltm_platform.data.transforms import Augment, train_transform

    if job.recipe.optimizer not in list_optimizers():
        raise job.choice_error("recipe.optimizer", list_optimizers())
    try:
        train_transform(Augment(**job.recipe.augment.model_dump()), 32, (0.5,) * 3, (0.5,) * 3)
    except (AssertionError, ValueError):  # how timm refuses what it cannot read
        key = "recipe.augment.auto_augment"
        value = job.recipe.augment.auto_augment
        raise job.error(
            key, f"{key} is {value!r}, but must be timm's notation such as rand-m9-mstd0.5"
        ) from None


def _with_absolute_paths(job: JobSpec) -> JobSpec:
    """Workers run in folders of their own, so no relative path may reach them."""
    if job.data.path != "digits" and "://" not in job.data.path:
        job = job.replace("data.path", str(Path(job.data.path).expanduser().resolve()))
    if job.cluster.storage:
        job = job.replace("cluster.storage", str(Path(job.cluster.storage).expanduser().resolve()))
    return job


def _with_model(job: JobSpec, num_classes: int) -> tuple[JobSpec, ltm.Count, ltm.Count]:
    """Build the network once to see that it can be, settle its image size and count its MACs."""
    import ltm
    from ltm_platform.models import create_model, input_pixels

    with _located(job):
        model = create_model(job, num_classes)
        base = create_model(job, num_classes, method="none")
    if job.model.method == "none":
        for wish in ("compression_ratio", "plan", "target_gmacs", "elastic"):
            job = job.replace(f"model.{wish}", None)  # so that no list of runs shows one
    size = input_pixels(model).size
    job = job.replace("model.image_size", size)
    return job, ltm.count(model, size), ltm.count(base, size)
