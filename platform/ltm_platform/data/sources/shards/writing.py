"""Shards are written: one Parquet file, or a split of them that appears complete or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import uuid
import zlib
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from ltm_platform.data.sources.shards.images import ShardImages
from ltm_platform.data.sources.shards.layout import (
    FORMAT_VERSION,
    METADATA_KEY,
    SCHEMA,
    SEAL_KEY,
    Place,
    Record,
    packed_index,
    shard_name,
    update_checksum,
)
from ltm_platform.data.sources.shards.seal import PLACEHOLDER, sealed
from ltm_platform.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from typing_extensions import Buffer

SHARD_BYTES = 64 << 20
GROUP_BYTES = 1 << 20
GROUP_ROWS = 64


def write_shards(
    folder: Path,
    split: str,
    records: Iterable[Record],
    classes: Sequence[str],
    *,
    dataset: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    group_bytes: int = GROUP_BYTES,
    group_rows: int = GROUP_ROWS,
) -> Path:
    """Write ``records`` in their order and return ``folder / split``.

    The same records give the same bytes. The split appears complete, by one rename, or not at
    all; of two processes that write the same at once, one wins and both succeed. All records are
    held in memory, since every shard says how many there are.

    dataset: see `Place`; a digest of the classes if left out.

    Raises:
        ValueError: no records, or a label outside ``classes``.
        UserError: the split exists with other content.
    """
    target = folder / split
    # Not tempfile.mkdtemp: its mode 0700 would hide a shared data set from everybody else.
    temporary = folder / f".{split}-{uuid.uuid4().hex}"
    temporary.mkdir(parents=True)
    try:
        parts = list(_cut(records, classes, shard_bytes))
        if not parts:
            raise ValueError(f"there are no records to write into {target}")
        dataset = dataset or dataset_digest(classes)
        entries = sum(map(len, parts))
        for number, part in enumerate(parts):
            place = Place(dataset, split, number, len(parts), entries)
            path = temporary / shard_name(number, len(parts))
            writer = ShardWriter(path, place, classes, group_bytes, group_rows)
            for record in part:
                writer.add(record)
            writer.close()
        _publish(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def dataset_digest(classes: Sequence[str], records: Iterable[Record] = ()) -> str:
    """Identifies a data set by its classes and images."""
    digest = hashlib.sha256(json.dumps(list(classes)).encode())
    for record in records:
        update_checksum(digest, record)
    return digest.hexdigest()


def _cut(
    records: Iterable[Record], classes: Sequence[str], shard_bytes: int
) -> Iterator[list[Record]]:
    """The records of each shard. ValueError for a label that is no class."""
    part: list[Record] = []
    size = 0
    for record in records:
        if not 0 <= record.label < len(classes):
            raise ValueError(f"label {record.label} of {record.key!r} is not a class")
        part.append(record)
        size += len(record.image)
        if size >= shard_bytes:
            yield part
            part, size = [], 0
    if part:
        yield part


def _publish(temporary: Path, target: Path) -> None:
    try:
        temporary.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        # Renaming onto a folder that holds files fails: the split is there already.
        ours, theirs = (ShardImages(there, split=target.name) for there in (temporary, target))
        if (ours.checksum, ours.classes) != (theirs.checksum, theirs.classes):
            raise UserError(
                f"{target} already holds other images: remove it or write into another folder."
            ) from None


class ShardWriter:
    """One Parquet file, written row group by row group to a path or an open stream."""

    def __init__(
        self,
        where: Path | pa.NativeFile,
        place: Place,
        classes: Sequence[str],
        group_bytes: int = GROUP_BYTES,
        group_rows: int = GROUP_ROWS,
    ) -> None:
        self._stack = ExitStack()
        if not isinstance(where, pa.NativeFile):
            where = self._stack.enter_context(pa.OSFile(str(where), "wb"))
        self._sink = _Sink(where)
        # Statistics and dictionaries are of no use here and would double the footer.
        self._file = self._stack.enter_context(
            pq.ParquetWriter(
                self._sink, SCHEMA, compression="none", use_dictionary=False, write_statistics=False
            )
        )
        self._index: list[tuple[int, int, int, int]] = []
        self._place = place
        self._classes = list(classes)
        self._group_bytes = group_bytes
        self._group_rows = group_rows
        self._pending: list[Record] = []
        self._pending_bytes = 0
        self._counts = [0] * len(classes)

    def add(self, record: Record) -> None:
        size = len(record.image)
        if self._pending and self._pending_bytes + size > self._group_bytes:
            self._flush()
        self._pending.append(record)
        self._pending_bytes += size
        self._counts[record.label] += 1
        if len(self._pending) >= self._group_rows:
            self._flush()

    def _flush(self) -> None:
        columns = list(zip(*self._pending, strict=True))
        self._file.write_table(pa.table(columns, schema=SCHEMA))
        offsets = self._sink.find([record.image for record in self._pending])
        for offset, record in zip(offsets, self._pending, strict=True):
            crc = zlib.crc32(record.image)
            self._index.append((offset, len(record.image), record.label, crc))
        self._pending = []
        self._pending_bytes = 0

    def close(
        self,
        skipped: Sequence[tuple[str, str]] = (),
        *,
        resized: Mapping[str, int] | None = None,
    ) -> None:
        """Write the footer.

        skipped: keys of images left out, and why.
        resized: how images were made smaller, for who looks into the file.
        """
        if self._pending:
            self._flush()
        checksum, data_bytes = self._sink.hold_back()
        about = {
            "version": FORMAT_VERSION,
            **self._place._asdict(),
            "classes": self._classes,
            "counts": self._counts,
            "data_bytes": data_bytes,
            "checksum": checksum,
            "skipped": list(skipped),
            "index": packed_index(self._index),
        }
        if resized:
            about["resized"] = dict(resized)
        self._file.add_key_value_metadata({METADATA_KEY: json.dumps(about).encode()})
        self._file.add_key_value_metadata({SEAL_KEY: PLACEHOLDER})
        self._file.close()
        self._sink.write_sealed()
        self._stack.close()


class _Sink(io.RawIOBase):
    """Passes on what is written, and keeps it until a position in it is looked up.

    What comes after `hold_back` is the footer: it is passed on by `write_sealed`.
    """

    def __init__(self, file: pa.NativeFile) -> None:
        self._file = file
        self._recent = bytearray()
        self._start = 0
        self._digest = hashlib.sha256()
        self._held_back = False

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer) -> int:
        self._recent += data
        if self._held_back:
            return len(memoryview(data))
        self._digest.update(data)
        return self._file.write(data)

    def find(self, pieces: Sequence[bytes]) -> list[int]:
        """Offsets in the file of pieces written, in their order, since the last call."""
        offsets = []
        position = 0
        for piece in pieces:
            position = self._recent.find(piece, position)
            assert position >= 0, "Parquet has encoded an image again"
            offsets.append(self._start + position)
            position += len(piece)
        self._start += len(self._recent)
        self._recent.clear()
        return offsets

    def hold_back(self) -> tuple[str, int]:
        """SHA-256 and bytes of what has been written."""
        self._start += len(self._recent)
        self._recent.clear()
        self._held_back = True
        return self._digest.hexdigest(), self._start

    def write_sealed(self) -> None:
        footer = bytes(self._recent)
        assert int.from_bytes(footer[-8:-4], "little") + 8 == len(footer), "data beside the footer"
        self._file.write(sealed(footer))
