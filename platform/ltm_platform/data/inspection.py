"""Verify shards against their footers, and show what a data set looks like."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from ltm_platform.compat.image_loader.pixels import PixelRule
from ltm_platform.data.importing.originals import BadImageError
from ltm_platform.data.importing.work import check_image
from ltm_platform.data.process_pool import spread
from ltm_platform.data.sources.shards import (
    SCHEMA,
    UNFINISHED,
    Record,
    ShardImages,
    holds_shards,
    read_footer,
    unpacked_index,
    update_checksum,
)
from ltm_platform.errors import UserError
from ltm_platform.storage.path import StoragePath, storage_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ltm_platform.data.image_set import ImageSet

# One image of so many is decoded unless all are.
SAMPLED = 20

_TILE = 96
_MARGIN = 4
_CAPTION = 14


@dataclass(frozen=True)
class Checked:
    """What a check read, and what is wrong: full sentences, none if all is well."""

    shards: int
    images: int
    decoded: int
    problems: tuple[str, ...]


def check_shards(
    path: str,
    *,
    decode_all: bool = False,
    processes: int = 1,
    listener: Callable[[int, int], None] = lambda _, __: None,
) -> Checked:
    """Read every byte of the shards below ``path`` and compare them with their footers.

    That every shard is there, its schema, checksum, counts and labels; and of one image in
    `SAMPLED`, or of all, that it can be decoded. ``listener`` gets shards done and in all.

    Raises:
        UserError: there are no shards.
    """
    root = storage_path(path)
    if not root.exists():
        raise UserError(f"{path} not found: there is no such folder.")
    if not holds_shards(root):
        raise UserError(f"{path} holds no shards (train/00000-of-00001.parquet and so on).")
    problems = list(_whole(root))
    files = [
        root / split / name
        for split in ("train", "val")
        for name, _ in (root / split).files()
        if name.endswith(".parquet")
    ]
    every = 1 if decode_all else SAMPLED
    images = decoded = 0
    tasks = [(file, every) for file in files]
    for done, shard in enumerate(spread(_check, tasks, min(processes, len(tasks))), start=1):
        images, decoded = images + shard.images, decoded + shard.decoded
        problems += shard.problems
        listener(done, len(files))
    return Checked(len(files), images, decoded, tuple(sorted(problems)))


def _whole(root: StoragePath) -> Iterator[str]:
    """What is wrong with the set as a whole."""
    if (root / UNFINISHED).exists():
        yield f"{root} is an import that was not finished."
    classes = []
    for split in ("train", "val"):
        try:
            classes.append(ShardImages(root / split).classes)
        except UserError as error:
            yield str(error)
    if len(set(classes)) > 1:
        yield f"{root / 'train'} and {root / 'val'} have different classes."


def _check(task: tuple[StoragePath, int]) -> Checked:
    """Check one shard; every so many images are decoded."""
    file, every = task
    problems: list[str] = []
    images = decoded = 0
    misplaced = False
    try:
        _, about = read_footer(file)
        counts = [0] * len(about["classes"])
        digest = hashlib.sha256()
        index = unpacked_index(about).T.tolist()
        with (
            pq.ParquetFile(file.path, filesystem=file.filesystem) as shard,
            file.filesystem.open_input_file(file.path) as content,
        ):
            if not shard.schema_arrow.equals(SCHEMA):
                raise UserError(f"{file} has other columns than a shard.")
            for number in range(shard.num_row_groups):
                for row in shard.read_row_group(number).to_pylist():
                    record = Record(**row)
                    update_checksum(digest, record)
                    if not 0 <= record.label < len(counts):
                        raise UserError(
                            f"image {record.key!r} of {file} has label {record.label}, "
                            f"but there are {len(counts)} classes."
                        )
                    counts[record.label] += 1
                    offset, size, label = index[images]
                    misplaced |= (size, label) != (len(record.image), record.label)
                    misplaced = misplaced or content.read_at(size, offset) != record.image
                    if images % every == 0:
                        decoded += 1
                        problems += _undecodable(record, file)
                    images += 1
        if digest.hexdigest() != about["checksum"]:
            problems.append(f"{file} has another checksum than its content.")
        elif misplaced:
            problems.append(f"{file} has an index that does not fit its images.")
        if counts != about["counts"]:
            problems.append(f"{file} holds other numbers of images than it says.")
    except UserError as error:
        problems.append(str(error))
    except (OSError, pa.ArrowException) as error:
        problems.append(f"{file} cannot be read: {error}.")
    return Checked(1, images, decoded, tuple(problems))


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
