"""The images of a job, and a batch that fits them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ltm_platform.errors import UserError
from ltm_platform.storage import locations

if TYPE_CHECKING:
    from ltm_platform.data import Dataset
    from ltm_platform.job import JobSpec

SAMPLED_IMAGES = 4  # of each split, from first to last


def check_data(job: JobSpec) -> Dataset:
    from ltm_platform.data import open_data
    from ltm_platform.data.sources import reach_store

    try:
        reach_store(job.data.path)
        return open_data(job.data, cache=locations.cache())
    except UserError as error:
        raise job.error("data.path", f"data.path: {error}") from None


def check_source(job: JobSpec) -> tuple[str, ...]:
    """Check that the data is there, without a look at the images; its classes.

    Raises:
        UserError: it is not.
    """
    from ltm_platform.data.sources import find_source

    try:
        return find_source(job.data.path, locations.cache()).class_names()
    except UserError as error:
        raise job.error("data.path", f"data.path: {error}") from None


def check_cache(job: JobSpec) -> None:
    from ltm_platform.data.sources import find_source

    key, path = "data.cache", job.data.path
    if job.data.cache and not find_source(path, locations.cache()).cacheable:
        raise job.error(
            key,
            f"{key} holds copies of shards, but data.path {path!r} has none: leave it out, or "
            f"make shards of a folder of images with 'ltm-platform data import'",
        )


def check_sample(job: JobSpec, dataset: Dataset) -> None:
    """Check that a few images of each split can be read, and decoded but for ``data.allow_bad``."""
    import numpy as np

    from ltm_platform.data.bad_images import BadImages
    from ltm_platform.data.importing.originals import BadImageError
    from ltm_platform.data.importing.work import check_image

    for part, source in (("training", dataset.train), ("validation", dataset.val)):
        found: dict[int, str] = {}
        indices = np.linspace(0, len(source) - 1, SAMPLED_IMAGES).round().astype(int)
        for index in np.unique(indices).tolist():
            where = source.locate(index)
            try:
                ((data, _),) = source.read([index])
                check_image(data)
            except BadImageError as error:
                found[index] = f"{where} is damaged: {error}"
            except (OSError, UserError) as error:
                raise job.error("data.path", f"data.path: {where} is damaged: {error}") from None
        try:
            BadImages(part, len(source), job.data.allow_bad).add(found)
        except UserError as error:
            raise job.error("data.path", f"data.path: {error}") from None
