"""Imports images from elsewhere as our shards.

Which image goes into which shard is planned from the listing alone, so every shard is written by
one process, whichever that is. ``unfinished.json`` is in the destination until all are there, and
``report.json`` then: counts, and by name all that was left out and why.
"""

from __future__ import annotations

import hashlib
import json
import math
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ltm_platform.data.importing.originals import Entry, Originals, labelled, with_validation
from ltm_platform.data.importing.table import open_table, parquet_files
from ltm_platform.data.importing.tree import open_archive, open_folder
from ltm_platform.data.importing.unsealed import open_unsealed
from ltm_platform.data.importing.work import Task, write_shard
from ltm_platform.data.process_pool import spread
from ltm_platform.data.sources.shards import (
    FORMAT_VERSION,
    PLACEHOLDER,
    REPORT,
    SHARD_BYTES,
    UNFINISHED,
    Place,
    holds_shards,
    read_footer,
    sealed,
    shard_name,
)
from ltm_platform.data.tree import all_notices
from ltm_platform.errors import UserError
from ltm_platform.storage import contact
from ltm_platform.storage.addresses import shown
from ltm_platform.storage.path import StoragePath, storage_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from ltm_platform.data.importing.originals import Labeller
    from ltm_platform.data.importing.smaller import Smaller

__all__ = ["ALLOWED_BAD", "REPORT", "Imported", "import_images"]

ALLOWED_BAD = 0.01


def _ignore(done: int, total: int) -> None:
    """No progress is shown."""


@dataclass(frozen=True)
class Imported:
    """What an import made: images of each split, classes, and where the report is.

    skipped: images that cannot be used.
    notices: what else a user should know, in sentences: what was left out that is no image.
    """

    images: dict[str, int]
    classes: tuple[str, ...]
    skipped: int
    report: StoragePath
    notices: tuple[str, ...] = ()


def import_images(
    source: str,
    destination: str,
    *,
    val_fraction: float = 0.2,
    allow_bad: float = ALLOWED_BAD,
    processes: int = 1,
    shard_bytes: int = SHARD_BYTES,
    smaller: Smaller | None = None,
    labeller: Labeller | None = None,
    listener: Callable[[int, int], None] = _ignore,
) -> Imported:
    """Make shards of a folder tree, a tar of one, or Parquet files of images.

    Shards that are there already, after a kill or Ctrl-C, are not written again. The same
    images give the same bytes, however many processes write them.

    Args:
        source: path or address of what is read.
        destination: folder to write, new or empty or from an import of the same source.
        val_fraction: share of the images for validation, if the source has no part for it.
        allow_bad: share of the images that may be unusable; they are left out and reported.
        processes: how many write at once.
        shard_bytes: about how many bytes of images make a shard, as they are in the source.
        smaller: how larger pictures are stored; None keeps all bytes. It is noted in the report
            and in every shard.
        labeller: gives the images their classes, in whatever folders they lie; noted in the report.
        listener: is called with images done and in all.

    Raises:
        UserError: nothing to import, nowhere to write, or too much that cannot be used.
    """
    contact.reach(source, "SOURCE")
    contact.reach(destination, "DEST")
    target = storage_path(destination)
    if f"{target.path}/".startswith(f"{storage_path(source).path.rstrip('/')}/"):
        raise UserError(
            f"{shown(destination)} lies in {shown(source)}, which is read: choose another folder."
        )
    try:
        originals = open_originals(source, unlabelled=labeller is not None)
        if labeller:
            originals = labelled(originals, labeller, listener)
        originals = with_validation(originals, val_fraction)
        plan = _fingerprint(originals, shard_bytes, smaller)
        tasks = list(_plan(originals, target, shard_bytes, plan, smaller))
        _claim(target, plan, source)
    except OSError as error:
        why = error.strerror or error
        raise UserError(
            f"{shown(source)} cannot be imported into {shown(destination)}: {why}."
        ) from error
    total = sum(len(task.entries) for task in tasks)
    limit = math.floor(allow_bad * total)
    done = skipped = 0
    try:
        there = {
            split: {name for name, _ in (target / split).files()} for split in originals.splits
        }
        waiting = []
        for task in tasks:
            if task.file.name not in there[task.place.split]:
                waiting.append(task)
                continue
            skipped += len(read_footer(task.file).skipped)
            done += len(task.entries)
        listener(done, total)
        with closing(spread(write_shard, waiting, min(processes, len(waiting)))) as shards:
            for shard in shards:
                done, skipped = done + shard.entries, skipped + shard.skipped
                listener(done, total)
                if skipped > limit:
                    break
        report, per_class = _report(tasks, originals, plan)
        if smaller:
            report["resized"] = smaller.as_dict()
        if labeller:
            report["labels_of"] = labeller.name
        text = json.dumps(report | {"seal": PLACEHOLDER}, indent=1, ensure_ascii=False)
        (target / REPORT).write(sealed(text.encode()))
        if skipped > limit:
            unusable = report["skipped"][len(originals.left_out) :]
            raise _too_many(skipped, done, total, allow_bad, target, unusable[0])
        _check_classes(per_class, originals, report, target)
        (target / UNFINISHED).delete()
    except BrokenProcessPool as error:
        raise UserError(
            f"a process that wrote into {destination} died, mostly of too little memory. What is "
            "finished is kept: the same command goes on from there."
        ) from error
    except OSError as error:
        why = error.strerror or error
        raise UserError(
            f"{destination} cannot be written: {why}. What is finished is kept: the same command "
            "goes on from there."
        ) from error
    notices = all_notices(originals.notices, originals.left_out)
    return Imported(report["images"], originals.classes, skipped, target / REPORT, notices)


def open_originals(source: str, *, unlabelled: bool = False) -> Originals:
    """What ``source`` holds. UserError if it is not there or holds no images.

    unlabelled: images of a folder or a tar, whatever folders they are in.
    """
    where = storage_path(source)
    if not where.is_file() and not where.is_folder():
        raise UserError(f"{source} not found: there is no such file or folder.")
    if unlabelled:
        return _unlabelled(where)
    if where.is_file():
        return open_table(where) if where.name.endswith(".parquet") else open_archive(where)
    if holds_shards(where) and (where / REPORT).exists():
        if unsealed := open_unsealed(where):
            return unsealed
        raise UserError(f"{source} holds shards already: it can be trained on as it is.")
    return open_table(where) if parquet_files(where) else open_folder(where)


def _unlabelled(where: StoragePath) -> Originals:
    if where.is_folder() and not (holds_shards(where) or parquet_files(where)):
        return open_folder(where, unlabelled=True)
    if where.is_file() and not where.name.endswith(".parquet"):
        return open_archive(where, unlabelled=True)
    raise UserError(f"{where} has labels: --labels-of is for image files in a folder or a tar.")


def _plan(
    originals: Originals,
    target: StoragePath,
    shard_bytes: int,
    dataset: str,
    smaller: Smaller | None,
) -> Iterator[Task]:
    for split, entries in originals.splits.items():
        parts = list(_cut(entries, shard_bytes))
        for number, part in enumerate(parts):
            file = target / split / shard_name(number, len(parts))
            place = Place(dataset, split, number, len(parts), len(entries), imported=True)
            yield Task(file, place, tuple(part), originals.classes, originals.reader, smaller)


def _cut(entries: list[Entry], shard_bytes: int) -> Iterator[list[Entry]]:
    part: list[Entry] = []
    size = 0
    for entry in entries:
        if part and size + entry.size > shard_bytes:
            yield part
            part, size = [], 0
        part.append(entry)
        size += entry.size
    yield part


def _fingerprint(originals: Originals, shard_bytes: int, smaller: Smaller | None) -> str:
    """Of everything that decides what is written into which shard."""
    digest = hashlib.sha256(f"{FORMAT_VERSION},{shard_bytes};".encode())
    if smaller:
        digest.update(json.dumps(smaller.as_dict()).encode())
    digest.update(json.dumps(originals.classes).encode())
    for split, entries in originals.splits.items():
        digest.update(split.encode())
        for entry in entries:
            digest.update(f"{entry.label},{entry.size},{entry.key};".encode())
    return digest.hexdigest()


def _claim(target: StoragePath, plan: str, source: str) -> None:
    """Take the destination for this import, or take it up where the last one stopped."""
    for name in (UNFINISHED, REPORT):
        if (target / name).exists():
            if _plan_in(target / name) != plan:
                raise UserError(
                    f"{target} holds an import of other images than {source} has now: "
                    "choose another folder, or remove it."
                )
            break
    else:
        if target.is_file() or target.files(recursive=True):
            raise UserError(f"{target} is not empty: choose a new folder.")
    (target / UNFINISHED).write(json.dumps({"plan": plan}).encode())


def _plan_in(file: StoragePath) -> object:
    try:
        values = json.loads(file.read())
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise UserError(f"{file} is damaged: remove it and the shards beside it.")
    return values.get("plan")


def _report(
    tasks: list[Task], originals: Originals, plan: str
) -> tuple[dict[str, Any], npt.NDArray[np.int64]]:
    """The report, and the training images of each class."""
    skipped = [{"image": key, "reason": reason} for key, reason in sorted(originals.left_out)]
    images = dict.fromkeys(originals.splits, 0)
    per_class = np.zeros(len(originals.classes), dtype=np.int64)
    shards: dict[str, str] = {}
    for task in tasks:
        if task.file.exists():
            footer = read_footer(task.file)
            images[task.place.split] += footer.images
            if task.place.split == "train":
                per_class += np.array(footer.counts)
            shards[task.place.name] = footer.digest
            skipped += [{"image": key, "reason": reason} for key, reason in footer.skipped]
    report = {
        "plan": plan,
        "shards": shards,
        "images": images,
        "classes": len(originals.classes),
        "skipped": skipped,
    }
    return report, per_class


def _check_classes(
    per_class: npt.NDArray[np.int64],
    originals: Originals,
    report: dict[str, Any],
    target: StoragePath,
) -> None:
    """A class that had training images must still have some."""
    entries = originals.splits["train"]
    had = np.bincount([entry.label for entry in entries], minlength=len(per_class))
    gone = np.flatnonzero((had > 0) & (per_class == 0))
    if not len(gone):
        return
    reasons = {one["image"]: one["reason"] for one in report["skipped"]}
    first = next(entry.key for entry in entries if entry.label == gone[0])
    more = f", and {len(gone) - 1:,} more classes none either" if len(gone) > 1 else ""
    raise UserError(
        f"class {originals.classes[gone[0]]!r} has no training image that can be used{more}, such "
        f"as {first} ({reasons[first]}): mend its images or remove it; {target / REPORT} lists "
        "them."
    )


def _too_many(
    skipped: int, done: int, total: int, allowed: float, target: StoragePath, first: dict[str, Any]
) -> UserError:
    return UserError(
        f"{skipped:,} of the first {done:,} images (of {total:,}) cannot be used, such as "
        f"{first['image']} ({first['reason']}), but at most {allowed:.2%} may be bad: "
        f"{target / REPORT} lists them, and --allow-bad takes a larger share."
    )
