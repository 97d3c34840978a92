"""Verify shards against their footers, and show what a data set looks like."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from ltm_platform.compat.image_loader.pixels import PixelRule
from ltm_platform.data.importing.originals import BadImageError
from ltm_platform.data.importing.work import check_image
from ltm_platform.data.process_pool import spread
from ltm_platform.data.sources.folder import Folder
from ltm_platform.data.sources.shards import (
    REPORT,
    UNFINISHED,
    Shards,
    holds_shards,
    list_split,
    misplaced,
    read_footer,
    seal_of,
    verify_shard,
    warn_unsealed,
)
from ltm_platform.errors import UserError
from ltm_platform.storage import contact
from ltm_platform.storage.addresses import shown
from ltm_platform.storage.path import storage_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ltm_platform.data.image_set import ImageSet
    from ltm_platform.data.sources.shards import Record
    from ltm_platform.data.sources.shards.layout import SplitFiles
    from ltm_platform.storage.path import StoragePath

# One image of so many is decoded unless all are.
SAMPLED = 20
_BATCH = 64

_TILE = 96
_MARGIN = 4
_CAPTION = 14


@dataclass(frozen=True)
class Checked:
    """What a check read, and what is wrong: full sentences, none if all is well.

    shards: None for a folder of images.
    notices: what else a user should know, in sentences.
    """

    shards: int | None
    images: int
    decoded: int
    problems: tuple[str, ...]
    notices: tuple[str, ...] = ()


def check_data(
    path: str,
    *,
    decode_all: bool = False,
    processes: int = 1,
    listener: Callable[[int, int], None] = lambda _, __: None,
) -> Checked:
    """Read every byte of the shards below ``path``, or decode every image of a folder tree.

    Of shards: that every one is there, in its place, and nothing else; its schema, checksum, counts
    and labels; that the import's report is whole; and of one image in `SAMPLED`, or of all, that it
    can be decoded. ``listener`` gets shards, or images of a folder, done and in all.

    Raises:
        UserError: there are neither shards nor images.
    """
    contact.reach(path, "PATH")
    root = storage_path(path)
    if not root.exists():
        raise UserError(f"{shown(path)} not found: there is no such folder.")
    if not holds_shards(root):
        return _check_folder(Folder(path, Path()), processes, listener)
    splits = {split: list_split(root / split) for split in ("train", "val")}
    problems = {*_whole(root), *_files(root, splits)}
    every = 1 if decode_all else SAMPLED
    tasks = [
        _Task(root / split / name, split, number, len(there.shards) + len(there.missing), every)
        for split, there in splits.items()
        for number, name in enumerate(sorted([*there.shards, *there.missing]))
        if name in there.shards
    ]
    images = decoded = 0
    digests: dict[str, str] = {}
    imported = sealed = False
    for done, shard in enumerate(spread(_check, tasks, min(processes, len(tasks))), start=1):
        images, decoded = images + shard.images, decoded + shard.decoded
        problems.update(shard.problems)
        digests[shard.name] = shard.digest
        imported, sealed = imported or shard.imported, sealed or shard.sealed
        listener(done, len(tasks))
    if imported:
        problems.update(_report(root, digests))
    if not sealed and not problems:
        warn_unsealed(path)
    return Checked(len(tasks), images, decoded, tuple(sorted(problems)))


def _check_folder(folder: Folder, processes: int, listener: Callable[[int, int], None]) -> Checked:
    """Decode every image of a folder tree."""
    parts = folder.open(val_fraction=0.5)
    files = [(part.root, name) for part in parts for name in part.paths()]
    tasks = [tuple(files[start : start + _BATCH]) for start in range(0, len(files), _BATCH)]
    problems: list[str] = []
    done = 0
    for images, found in spread(_check_files, tasks, min(processes, len(tasks))):
        done += images
        problems += found
        listener(done, len(files))
    return Checked(None, done, done, tuple(sorted(problems)), folder.notices)


def _check_files(files: tuple[tuple[Path, str], ...]) -> tuple[int, list[str]]:
    """How many these are, and what is wrong with them."""
    problems = []
    for root, name in files:
        try:
            check_image((root / name).read_bytes())
        except OSError as error:
            problems.append(f"image {name!r} of {root} cannot be read: {error.strerror}.")
        except BadImageError as reason:
            problems.append(f"image {name!r} of {root}: {reason}.")
    return len(files), problems


def _whole(root: StoragePath) -> Iterator[str]:
    """What is wrong with the set as a whole."""
    if (root / UNFINISHED).exists():
        yield f"{root} is an import that was not finished."
        return
    try:
        Shards(str(root), Path()).open(val_fraction=0)
    except UserError as error:
        yield str(error)


def _files(root: StoragePath, splits: dict[str, SplitFiles]) -> Iterator[str]:
    """Files that are missing, and those that do not belong to the set."""
    for split, there in splits.items():
        for name in there.missing:
            yield f"{root / split / name} is missing: the data set is not complete."
        for name in there.surplus:
            yield f"{root / split / name} does not belong to the data set."
    for name, _ in root.files(recursive=True):
        folder = name.split("/")[0]
        if folder not in (*splits, REPORT, UNFINISHED) and not folder.startswith("."):
            yield f"{root / name} does not belong to the data set."


def _report(root: StoragePath, digests: dict[str, str]) -> Iterator[str]:
    """Compare an import's report with the shards that are there."""
    file = root / REPORT
    try:
        if not file.exists():
            yield f"{file} is missing: the import wrote it beside the shards."
            return
        text = file.read()
        if not seal_of(text):
            raise ValueError("its seal is gone")
        written = json.loads(text)["shards"]
    except (OSError, ValueError) as error:
        yield f"{file} is damaged: {error}."
        return
    for name, digest in digests.items():
        if digest and written.get(name) != digest:
            yield f"{root / name} is of another import than {file} tells of."


class _Task(NamedTuple):
    """One shard: where it is, where it should be, and that every so many images are decoded."""

    file: StoragePath
    split: str
    number: int
    shards: int
    every: int


class _CheckedShard(NamedTuple):
    name: str
    images: int = 0
    decoded: int = 0
    problems: tuple[str, ...] = ()
    digest: str = ""
    sealed: bool = False
    imported: bool = False


def _check(task: _Task) -> _CheckedShard:
    """Check one shard."""
    file, split, number, shards, every = task
    name = f"{split}/{file.name}"
    try:
        footer = read_footer(file)
    except UserError as error:
        return _CheckedShard(name, problems=(str(error),))
    problems: list[str] = []
    decoded = 0

    def visit(number: int, record: Record) -> None:
        nonlocal decoded
        if number % every == 0:
            decoded += 1
            problems.extend(_undecodable(record, file))

    wrong_place = misplaced(file, footer, split, number, shards)
    if wrong_place:
        problems.append(wrong_place)
    problems += verify_shard(file, footer, visit)
    return _CheckedShard(
        name,
        footer.images,
        decoded,
        tuple(problems),
        "" if wrong_place else footer.digest,
        footer.place is not None,
        footer.place is not None and footer.place.imported,
    )


def _undecodable(record: Record, file: StoragePath) -> list[str]:
    try:
        check_image(record.image)
    except BadImageError as reason:
        return [f"image {record.key!r} of {file}: {reason}."]
    return []


def contact_sheet(source: ImageSet, *, rows: int = 12, columns: int = 8) -> Image.Image:
    """Some images of some classes, a row a class with its name; both evenly over what there is."""
    classes = np.flatnonzero(np.bincount(source.labels, minlength=len(source.classes)))
    shown = _evenly(classes, rows)
    height = len(shown) * (_CAPTION + _TILE + _MARGIN)
    sheet = Image.new("RGB", (columns * (_TILE + _MARGIN), height), "white")
    draw = ImageDraw.Draw(sheet)
    for row, label in enumerate(shown):
        top = row * (_CAPTION + _TILE + _MARGIN)
        name = source.classes[label].encode("latin-1", "replace").decode("latin-1")
        draw.text((2, top), name, fill="black")
        indices = _evenly(np.flatnonzero(source.labels == label), columns)
        for column, (data, _) in enumerate(source.read(indices)):
            tile = PixelRule().rgb(Image.open(io.BytesIO(data)))
            tile.thumbnail((_TILE, _TILE))
            sheet.paste(tile, (column * (_TILE + _MARGIN), top + _CAPTION))
    return sheet


def _evenly(values: np.ndarray, count: int) -> np.ndarray:
    """At most ``count`` of ``values``, from first to last."""
    return values[np.unique(np.linspace(0, len(values) - 1, count).round().astype(int))]
