"""The format of a data set as Parquet shards: names, columns, footer.

A split is a folder ``<split>/00000-of-00004.parquet ...``. Columns: ``image`` (binary, the
encoded file as it was), ``label`` (int64), ``key`` (string, names the image in messages). The
footer's key ``ltm`` holds JSON (see `_Sealed`): format version, the shard's place, class names,
images per class in this shard, a SHA-256 of all bytes before the footer, the images that an import
left out with the reason, and an index. The footer seals itself by the key ``seal`` (see `.seal`),
so that every byte of the file is covered.

Nothing is compressed or coded again, so the bytes of an image lie in the file in one piece. The
index (base64 of int64 [4, images]: offset in the file, bytes, label, CRC-32) says where, and
reading one at random takes that piece alone, here or in an object store, and verifies it. Any other
reader of Parquet finds row groups of about 1 MiB.

Format 2, of version 0.1, has neither place nor seal, an index of three rows, and a SHA-256 of the
records in place of that of the bytes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from ltm_platform.data.sources.shards.seal import seal_of
from ltm_platform.errors import ReadError, UserError, first_invalid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ltm_platform.storage.path import StoragePath

FORMAT_VERSION = 3
UNSEALED_VERSION = 2
SCHEMA = pa.schema([("image", pa.binary()), ("label", pa.int64()), ("key", pa.string())])
METADATA_KEY = b"ltm"
SEAL_KEY = b"seal"
UNFINISHED = "unfinished.json"
"""In the folder of the splits while an import is writing them."""
REPORT = "report.json"
"""In the folder of the splits when an import has written them."""
_NAME = re.compile(r"\d{5}-of-(\d{5})\.parquet")
_MAGIC = b"PAR1"
_TAIL_BYTES = 64 << 10  # holds most footers, so that one request reads them


class Record(NamedTuple):
    """One image to be written."""

    image: bytes
    label: int
    key: str


class Place(NamedTuple):
    """Where a shard belongs.

    dataset: identifies the data set, by a digest; the same in both splits.
    split: ``train`` or ``val``.
    number: of the shard in its split, from 0.
    shards: in the split.
    entries: images of the split, those that were left out included.
    imported: an import wrote it, whose report lies beside the splits.
    """

    dataset: str
    split: str
    number: int
    shards: int
    entries: int
    imported: bool = False

    @property
    def name(self) -> str:
        """Path in the data set."""
        return f"{self.split}/{shard_name(self.number, self.shards)}"


class _Unsealed(BaseModel):
    """The JSON of a footer of format 2."""

    model_config = ConfigDict(strict=True, frozen=True)

    version: int
    split: str
    classes: list[str]
    counts: list[int]
    checksum: str
    skipped: list[tuple[str, str]]
    index: str


class _Sealed(_Unsealed):
    """The JSON of a footer."""

    dataset: str
    number: int
    shards: int
    entries: int
    imported: bool
    data_bytes: int


@dataclass(frozen=True, slots=True)
class Footer:
    """What a shard says of itself.

    place: None in format 2.
    checksum: SHA-256 of the first ``data_bytes`` bytes; in format 2 of the records.
    index: int64 [4, images]: offset in the file, bytes, label, CRC-32; in format 2 without the
        last row.
    digest: differs from that of any other content.
    """

    place: Place | None
    split: str
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    checksum: str
    skipped: tuple[tuple[str, str], ...]
    index: npt.NDArray[np.int64]
    data_bytes: int
    digest: str

    @property
    def images(self) -> int:
        return self.index.shape[1]


def holds_shards(folder: StoragePath) -> bool:
    """Whether ``folder`` is a data set in this format rather than a tree of image files."""
    return any(
        name.endswith(".parquet")
        for split in ("train", "val")
        for name, _ in (folder / split).files()
    )


def shard_name(number: int, count: int) -> str:
    return f"{number:05d}-of-{count:05d}.parquet"


class SplitFiles(NamedTuple):
    """What lies in the folder of a split.

    shards: name and bytes of each that belongs there.
    missing: names of shards.
    surplus: names of other files, hidden ones left out.
    """

    shards: dict[str, int]
    missing: list[str]
    surplus: list[str]


def list_split(folder: StoragePath) -> SplitFiles:
    """The files of a split, as most of their names have it."""
    found = dict(folder.files(recursive=True))
    totals = Counter(int(match[1]) for match in map(_NAME.fullmatch, found) if match)
    count = totals.most_common(1)[0][0] if totals else 0
    names = [shard_name(number, count) for number in range(count)]
    return SplitFiles(
        {name: found[name] for name in names if name in found},
        [name for name in names if name not in found],
        [name for name in found if name not in names and not name.startswith(".")],
    )


def complete_shards(folder: StoragePath) -> tuple[list[StoragePath], list[int]]:
    """Every shard of a split, and their bytes."""
    shards, missing, surplus = list_split(folder)
    if not shards:
        raise UserError(f"{folder} holds no shards (00000-of-00001.parquet and so on).")
    if missing:
        raise UserError(f"{folder / missing[0]} is missing: the data set is not complete.")
    for name in surplus:
        if _NAME.fullmatch(name):
            raise UserError(f"{folder / name} does not belong to the {len(shards)} shards there.")
    return [folder / name for name in shards], list(shards.values())


def read_footer(file: StoragePath) -> Footer:
    """What a shard says of itself, its own seal verified.

    Raises:
        UserError: it is no shard, or its footer is damaged.
        ReadError: the store does not give it.
    """
    try:
        size, raw = _read_tail(file)
    except OSError as error:
        raise ReadError(f"{file} cannot be read: {error}.") from error
    except ValueError as error:
        raise _damaged(file, str(error)) from None
    try:
        seal = seal_of(raw)
        footer = pq.read_metadata(pa.BufferReader(raw))
        about = (footer.metadata or {}).get(METADATA_KEY)
        if about is None:
            raise UserError(f"{file} is Parquet, but not a shard that ltm-platform wrote.")
        return _parse(about, seal, size, len(raw))
    except UserError:
        raise
    except _OtherFormatError as error:
        raise UserError(f"{file} {error}") from None
    except ValidationError as error:
        where, why = first_invalid(error)
        raise _damaged(file, f"its footer's {where or 'text'}: {why}") from None
    # Whatever a parser trips over: OSError, ArrowException, JSONDecodeError, UnicodeDecodeError.
    except Exception as error:
        raise _damaged(file, str(error) or type(error).__name__) from error


def _damaged(file: StoragePath, why: str) -> UserError:
    return UserError(f"{file} is damaged: {' '.join(why.split()).rstrip('.')[:300]}.")


def _read_tail(file: StoragePath) -> tuple[int, bytes]:
    """Bytes of the file, and its footer with the length and the magic bytes that follow it."""
    with file.filesystem.open_input_file(file.path) as content:
        size = content.size()
        tail = content.read_at(min(size, _TAIL_BYTES), max(0, size - _TAIL_BYTES))
        if len(tail) < 12 or tail[-4:] != _MAGIC:
            raise ValueError("it does not end as a Parquet file does")
        length = int.from_bytes(tail[-8:-4], "little") + 8
        if length > size - len(_MAGIC):
            raise ValueError("it is shorter than its footer")
        if length > len(tail):
            tail = content.read_at(length, size - length)
    return size, tail[-length:]


class _OtherFormatError(ValueError):
    """A shard of a later version."""


def _parse(text: bytes, seal: str | None, size: int, footer_bytes: int) -> Footer:
    """ValueError: the footer does not fit together."""
    values = json.loads(text)
    version = values.get("version") if isinstance(values, dict) else None
    place = None
    about: _Unsealed
    if version == FORMAT_VERSION and seal:
        about = it = _Sealed.model_validate_json(text)
        place = Place(it.dataset, it.split, it.number, it.shards, it.entries, it.imported)
        if it.data_bytes != size - footer_bytes:
            written = it.data_bytes + footer_bytes
            raise ValueError(f"it has {size:,} bytes where {written:,} were written")
    elif version == UNSEALED_VERSION and not seal:
        about = _Unsealed.model_validate_json(text)
    elif version in (FORMAT_VERSION, UNSEALED_VERSION):
        raise ValueError("its seal and its format do not fit together")
    else:
        raise _OtherFormatError(
            f"has format {version!r:.20}; this version reads {UNSEALED_VERSION} and "
            f"{FORMAT_VERSION}."
        )
    index = _unpacked_index(about.index, 4 if place else 3)
    _check_index(index, about, size - footer_bytes)
    return Footer(
        place,
        about.split,
        tuple(about.classes),
        tuple(about.counts),
        about.checksum,
        tuple(about.skipped),
        index,
        size - footer_bytes,
        seal or hashlib.sha256(text).hexdigest(),
    )


def _check_index(index: npt.NDArray[np.int64], about: _Unsealed, data_bytes: int) -> None:
    offsets, sizes, labels = index[:3]
    # Compared so that no sum overflows.
    left = data_bytes - np.minimum(offsets, data_bytes)
    if ((offsets < 0) | (sizes < 0) | (sizes > left)).any():
        raise ValueError("its index points outside the file")
    classes = len(about.classes)
    if ((labels < 0) | (labels >= classes)).any():
        raise ValueError(f"its index has a label that is none of its {classes} classes")
    if np.bincount(labels, minlength=classes).tolist() != about.counts:
        raise ValueError("its index holds other numbers of images than its counts")


def packed_index(index: Sequence[tuple[int, int, int, int]]) -> str:
    """Offset in the file, bytes, label and CRC-32 of every image, as the footer keeps them."""
    columns = np.array(index, dtype="<i8").reshape(-1, 4).T
    return base64.b64encode(columns.tobytes()).decode()


def _unpacked_index(text: str, rows: int) -> npt.NDArray[np.int64]:
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), dtype="<i8").reshape(rows, -1)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"its index: {error}") from None


def update_checksum(digest: hashlib._Hash, record: Record) -> None:
    """Add ``record`` to the SHA-256 of several."""
    key = record.key.encode()
    # Lengths first: without them two different records could hash alike.
    digest.update(f"{record.label},{len(key)},{len(record.image)};".encode())
    digest.update(key)
    digest.update(record.image)
