"""The format of a data set as Parquet shards: names, columns, footer.

A split is a folder ``<split>/00000-of-00004.parquet ...``. Columns: ``image`` (binary, the
encoded file as it was), ``label`` (int64), ``key`` (string, names the image in messages). The
footer's key ``ltm`` holds JSON: format version, split, class names, images per class in this
shard, a SHA-256 of its content, the images that an import left out with the reason, and an index.

Nothing is compressed or coded again, so the bytes of an image lie in the file in one piece. The
index (base64 of int64 [3, images]: offset in the file, bytes, label) says where, and reading one at
random takes that piece alone, here or in an object store. Any other reader of Parquet finds row
groups of about 1 MiB.
"""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ltm_platform.errors import UserError

if TYPE_CHECKING:
    import hashlib
    from collections.abc import Sequence

    from ltm_platform.storage.path import StoragePath

FORMAT_VERSION = 2
SCHEMA = pa.schema([("image", pa.binary()), ("label", pa.int64()), ("key", pa.string())])
METADATA_KEY = b"ltm"
UNFINISHED = "unfinished.json"
"""In the folder of the splits while an import is writing them."""
_NAME = re.compile(r"\d{5}-of-(\d{5})\.parquet")


class Record(NamedTuple):
    """One image to be written."""

    image: bytes
    label: int
    key: str


def holds_shards(folder: StoragePath) -> bool:
    """Whether ``folder`` is a data set in this format rather than a tree of image files."""
    return any(
        name.endswith(".parquet")
        for split in ("train", "val")
        for name, _ in (folder / split).files()
    )


def shard_name(number: int, count: int) -> str:
    return f"{number:05d}-of-{count:05d}.parquet"


def complete_shards(folder: StoragePath) -> tuple[list[StoragePath], list[int]]:
    """Every shard of a split, and their bytes."""
    found = {name: size for name, size in folder.files() if _NAME.fullmatch(name)}
    names = list(found)
    if not names:
        raise UserError(f"{folder} holds no shards (00000-of-00001.parquet and so on).")
    expected = int(names[0].removesuffix(".parquet").rsplit("-", 1)[1])
    for number in range(expected):
        if shard_name(number, expected) not in names:
            missing = folder / shard_name(number, expected)
            raise UserError(f"{missing} is missing: the data set is not complete.")
    if len(names) != expected:
        raise UserError(f"{folder} holds {len(names)} shards where {expected} belong together.")
    return [folder / name for name in names], list(found.values())


Footer = tuple[pq.FileMetaData, dict[str, Any]]


def read_footer(file: StoragePath) -> Footer:
    """What Parquet and what this format say of one shard; UserError if it is none."""
    try:
        footer = pq.read_metadata(file.path, filesystem=file.filesystem)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{file} is damaged: {error}.") from error
    raw = (footer.metadata or {}).get(METADATA_KEY)
    if raw is None:
        raise UserError(f"{file} is Parquet, but not a shard that ltm-platform wrote.")
    about = json.loads(raw)
    if about["version"] != FORMAT_VERSION:
        raise UserError(
            f"{file} has format {about['version']}; this version reads {FORMAT_VERSION}."
        )
    return footer, about


def packed_index(index: Sequence[tuple[int, int, int]]) -> str:
    """Offset in the file, bytes and label of every image, as the footer keeps them."""
    columns = np.array(index, dtype="<i8").reshape(-1, 3).T
    return base64.b64encode(columns.tobytes()).decode()


def unpacked_index(about: dict[str, Any]) -> npt.NDArray[np.int64]:
    """A shard's index [3, images]: offset in the file, bytes, label."""
    return np.frombuffer(base64.b64decode(about["index"]), dtype="<i8").reshape(3, -1)


def update_checksum(digest: hashlib._Hash, record: Record) -> None:
    """Add ``record`` to the SHA-256 of its shard."""
    key = record.key.encode()
    # Lengths first: without them two different records could hash alike.
    digest.update(f"{record.label},{len(key)},{len(record.image)};".encode())
    digest.update(key)
    digest.update(record.image)
