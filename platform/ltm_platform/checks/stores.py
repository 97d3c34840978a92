"""Where a run is kept and recorded: its storage and its tracking store."""

from __future__ import annotations

import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from ltm_platform import tracking
from ltm_platform.errors import UserError
from ltm_platform.storage import addresses, contact, locations
from ltm_platform.storage.path import is_address
from ltm_platform.storage.room import free_bytes, shown_bytes
from ltm_platform.storage.run_folder import storage_root

if TYPE_CHECKING:
    from ltm_platform.job import JobSpec
    from ltm_platform.storage.path import StoragePath

_PROBE = b"probe"


def check_no_keys(job: JobSpec) -> None:
    """Check that addresses in the job hold no key: logs and dashboards show them.

    Raises:
        UserError: one does; the sentence leaves it out.
    """
    if job.tracking.uri and addresses.has_secret(job.tracking.uri):
        # Without the place, which for --set would show the password again.
        raise UserError(
            "tracking.uri holds a password, which would be kept with every run: leave it out of "
            f"the job and set {tracking.URI_VARIABLE}"
        )
    found = {
        "cluster.address": job.cluster.address,
        "cluster.storage": job.cluster.storage,
        "data.cache": job.data.cache,
        "data.path": job.data.path,
        "model.checkpoint": job.model.checkpoint,
        "recipe.distill.checkpoint": job.recipe.distill.checkpoint,
        "recipe.distill.teacher": job.recipe.distill.teacher,
    }
    for key, address in found.items():
        if address and is_address(address) and addresses.has_secret(address):
            # Without the place, which for --set would show it again.
            raise UserError(
                f"{key} is {locations.shown(address)}: a key in it would be kept with every run; "
                f"leave it out and give it to the machines, by instance roles or ~/.aws/credentials"
            )


def check_local(job: JobSpec) -> None:
    """Check that no address stands where only what is on a machine's own disk is read.

    Raises:
        UserError: one does.
    """
    weights = "a file or a checkpoint's folder that all nodes reach as a path"
    wanted = {
        "data.cache": (job.data.cache, "a folder on each node's own disk"),
        "model.checkpoint": (job.model.checkpoint, weights),
        "recipe.distill.checkpoint": (job.recipe.distill.checkpoint, weights),
        "recipe.distill.teacher": (
            job.recipe.distill.teacher,
            f"the name of a network, or {weights}",
        ),
    }
    for key, (value, what) in wanted.items():
        if value and is_address(value):
            shown = locations.shown(value)
            raise job.error(key, f"{key} is {shown!r}, but must be {what}: no address")


def check_tracking(job: JobSpec) -> None:
    """Check that the tracking server answers; of a database, that it is one that can be used.

    Raises:
        UserError: it does not.
    """
    try:
        uri = tracking.tracking_uri(job.tracking.uri)
        tracking.check_usable(uri, job.tracking.experiment)
    except UserError as error:
        key = next(iter(error.fields), "tracking.uri")
        of_job = job.tracking.uri or key != "tracking.uri"
        raise (job.error(key, str(error)) if of_job else error) from None


def check_storage(job: JobSpec) -> float:
    """Check that runs can be stored: a file is written, read back and removed.

    Returns the seconds that it took.

    Raises:
        UserError: they cannot.
    """
    key, address = "cluster.storage", job.cluster.storage or ""
    if problem := contact.problem_of(address):
        shown = locations.shown(address)
        raise job.error(key, f"{key} is {shown!r}, which cannot be written to: {problem}")
    try:
        root = storage_root(job)
    except UserError as error:
        raise job.error(key, f"{key}: {error}") from None
    began = time.perf_counter()
    try:
        if root.is_local:
            _probe_folder(Path(root.path))
        else:
            _probe_store(root)
    except OSError as error:
        raise job.error(
            key,
            f"{key} is {locations.shown(str(root))!r}, which cannot be written to: "
            f"{error.strerror or error}",
        ) from None
    return time.perf_counter() - began


def needed_bytes(job: JobSpec, parameters: int, workers: int) -> int:
    """Of the checkpoints that the run keeps, and of one more, which is written before an old one
    is removed."""
    from ltm_platform.training.measurement.estimates import checkpoint_bytes

    one = checkpoint_bytes(parameters, workers, ema=job.recipe.ema_decay is not None)
    return one * (job.checkpoint.keep + 1)


def free_storage(job: JobSpec) -> int | None:
    """Bytes that are free where checkpoints go; None: an object store."""
    root = storage_root(job)
    return free_bytes(Path(root.path)) if root.is_local else None


def check_room(job: JobSpec, parameters: int, workers: int, stored: int) -> None:
    """Check that the run's checkpoints fit on the disk; ``stored`` bytes of them are there."""
    free, needed = free_storage(job), needed_bytes(job, parameters, workers)
    if free is not None and needed > free + stored:
        key, count = "cluster.storage", job.checkpoint.keep + 1
        raise job.error(
            key,
            f"{key} is {str(storage_root(job))!r}, where {shown_bytes(free)} are free, but "
            f"{count} checkpoints of {shown_bytes(needed // count)} take {shown_bytes(needed)} "
            f"(checkpoint.keep, and one more while it is written): make room, keep fewer, or name "
            f"another folder",
        )


def _probe_folder(root: Path) -> None:
    # A run creates the folder; a refused one leaves nothing behind.
    existing = next(folder for folder in (root, *root.parents) if folder.exists())
    with tempfile.TemporaryFile(dir=existing) as probe:
        probe.write(_PROBE)
        probe.seek(0)
        _check_read(probe.read())


def _probe_store(root: StoragePath) -> None:
    probe = root / f".probe-{uuid.uuid4().hex}"
    probe.write(_PROBE)
    try:
        _check_read(probe.read())
    finally:
        probe.delete()


def _check_read(content: bytes) -> None:
    if content != _PROBE:
        raise OSError("what is read is not what was written")


def with_absolute_paths(job: JobSpec) -> JobSpec:
    """The job with absolute paths: workers run in folders of their own."""
    from ltm_platform.data.sources import find_source
    from ltm_platform.storage.path import is_address

    paths_of = {
        "cluster.storage": job.cluster.storage,
        "data.cache": job.data.cache,
        "model.checkpoint": job.model.checkpoint,
        "recipe.distill.checkpoint": job.recipe.distill.checkpoint,
    }
    teacher = job.recipe.distill.teacher
    if teacher and Path(teacher).expanduser().is_dir():
        paths_of["recipe.distill.teacher"] = teacher
    for key, path in paths_of.items():
        if path and not is_address(path):
            job = job.replace(key, str(Path(path).expanduser().resolve()))
    source = find_source(job.data.path, locations.cache())
    return job.replace("data.path", source.absolute_path)
