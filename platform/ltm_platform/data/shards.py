"""Images as Parquet shards: how they are written and how they are read.

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
import hashlib
import io
import json
import re
import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ltm_platform.data.place import Place, place
from ltm_platform.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from typing_extensions import Buffer

    from ltm_platform.data.cache import ShardCache
    from ltm_platform.data.source import Indices

FORMAT_VERSION = 2
SHARD_BYTES = 64 << 20
GROUP_BYTES = 1 << 20
GROUP_ROWS = 64

SCHEMA = pa.schema([("image", pa.binary()), ("label", pa.int64()), ("key", pa.string())])
UNFINISHED = "unfinished.json"
"""Stands beside the splits while an import is writing them."""
_METADATA_KEY = b"ltm"
_NAME = re.compile(r"\d{5}-of-(\d{5})\.parquet")

_OPEN_FILES = 64
_REQUESTS_AT_ONCE = 16


class Record(NamedTuple):
    """One image to be written."""

    image: bytes
    label: int
    key: str


def write_shards(
    folder: Path,
    split: str,
    records: Iterable[Record],
    classes: Sequence[str],
    *,
    shard_bytes: int = SHARD_BYTES,
    group_bytes: int = GROUP_BYTES,
    group_rows: int = GROUP_ROWS,
) -> Path:
    """Write ``records`` in their order and return ``folder / split``.

    The same records give the same bytes. The split appears complete, by one rename, or not at
    all; of two processes that write the same at once, one wins and both succeed.

    Raises:
        ValueError: no records, or a label outside ``classes``.
        UserError: the split exists with other content.
    """
    target = folder / split
    # Not tempfile.mkdtemp: its mode 0700 would hide a shared data set from everybody else.
    temporary = folder / f".{split}-{uuid.uuid4().hex}"
    temporary.mkdir(parents=True)
    try:
        shards = 0
        writer: ShardWriter | None = None
        for record in records:
            if not 0 <= record.label < len(classes):
                raise ValueError(f"label {record.label} of {record.key!r} is not a class")
            if writer is None:
                path = temporary / f"{shards:05d}.parquet"
                writer = ShardWriter(path, split, classes, group_bytes, group_rows)
                shards += 1
            writer.add(record)
            if writer.bytes_written >= shard_bytes:
                writer.close()
                writer = None
        if writer is not None:
            writer.close()
        if shards == 0:
            raise ValueError(f"there are no records to write into {target}")
        for number in range(shards):
            path = temporary / f"{number:05d}.parquet"
            path.rename(temporary / shard_name(number, shards))
        _publish(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _publish(temporary: Path, target: Path) -> None:
    try:
        temporary.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        # Renaming onto a folder that holds files fails: the split is there already.
        ours, theirs = ParquetSource(temporary), ParquetSource(target)
        if (ours.checksum, ours.classes) != (theirs.checksum, theirs.classes):
            raise UserError(
                f"{target} already holds other images: remove it or write into another folder."
            ) from None


class ShardWriter:
    """One Parquet file, written row group by row group to a path or an open stream."""

    def __init__(
        self,
        where: Path | pa.NativeFile,
        split: str,
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
        self._index: list[tuple[int, int, int]] = []
        self._split = split
        self._classes = list(classes)
        self._group_bytes = group_bytes
        self._group_rows = group_rows
        self._pending: list[Record] = []
        self._pending_bytes = 0
        self._counts = [0] * len(classes)
        self._hash = hashlib.sha256()
        self.bytes_written = 0

    def add(self, record: Record) -> None:
        size = len(record.image)
        if self._pending and self._pending_bytes + size > self._group_bytes:
            self._flush()
        self._pending.append(record)
        self._pending_bytes += size
        self.bytes_written += size
        self._counts[record.label] += 1
        update_checksum(self._hash, record)
        if len(self._pending) >= self._group_rows:
            self._flush()

    def _flush(self) -> None:
        columns = list(zip(*self._pending, strict=True))
        self._file.write_table(pa.table(columns, schema=SCHEMA))
        offsets = self._sink.find([record.image for record in self._pending])
        for offset, record in zip(offsets, self._pending, strict=True):
            self._index.append((offset, len(record.image), record.label))
        self._pending = []
        self._pending_bytes = 0

    def close(self, skipped: Sequence[tuple[str, str]] = ()) -> None:
        """Write the footer. ``skipped`` are keys of images left out, and why."""
        if self._pending:
            self._flush()
        about = {
            "version": FORMAT_VERSION,
            "split": self._split,
            "classes": self._classes,
            "counts": self._counts,
            "checksum": self._hash.hexdigest(),
            "skipped": list(skipped),
            "index": _packed(self._index),
        }
        self._file.add_key_value_metadata({_METADATA_KEY: json.dumps(about).encode()})
        self._stack.close()


class _Sink(io.RawIOBase):
    """Passes on what is written, and keeps it until it is asked where something lies in it."""

    def __init__(self, file: pa.NativeFile) -> None:
        self._file = file
        self._recent = bytearray()
        self._start = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer) -> int:
        self._recent += data
        return self._file.write(data)

    def find(self, pieces: Sequence[bytes]) -> list[int]:
        """Offsets in the file of pieces written, in their order, since the last call."""
        offsets = []
        position = 0
        for piece in pieces:
            position = self._recent.find(piece, position)
            assert position >= 0, "Parquet has coded an image anew"
            offsets.append(self._start + position)
            position += len(piece)
        self._start += len(self._recent)
        self._recent.clear()
        return offsets


def _packed(index: Sequence[tuple[int, int, int]]) -> str:
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


class ParquetSource:
    """The images of one split, read from its shards (see `Source`).

    Opening reads the footers, and with them the index, 24 bytes an image. Files are opened lazily
    in every process that reads; with a ``cache`` they are copied into it first, and read there.

    Raises:
        UserError: no shards, a shard missing, damaged or of another format.
    """

    def __init__(self, folder: Path | Place, cache: ShardCache | None = None) -> None:
        self.folder = folder if isinstance(folder, Place) else place(folder)
        self._cache = cache
        self._files, self._bytes = _complete(self.folder)
        self._names: list[str] = []
        indices: list[npt.NDArray[np.int64]] = []
        counts: npt.NDArray[np.int64] | None = None
        checksum = hashlib.sha256()
        for path, (_, about) in self._footers():
            if counts is None:
                self.classes: tuple[str, ...] = tuple(about["classes"])
                counts = np.zeros(len(self.classes), dtype=np.int64)
            elif tuple(about["classes"]) != self.classes:
                raise UserError(f"{path} has other classes than {self._files[0].name} beside it.")
            counts += np.asarray(about["counts"])
            checksum.update(about["checksum"].encode())
            if cache:
                self._names.append(_copys_name(about))
            indices.append(unpacked_index(about))
        assert counts is not None
        self.counts: tuple[int, ...] = tuple(counts.tolist())
        self.checksum = checksum.hexdigest()
        self._offsets, self._sizes, self.labels = np.concatenate(indices, axis=1)
        self._first = np.cumsum([0, *(index.shape[1] for index in indices)])
        self._open_lazily()

    def _footers(self) -> Iterator[tuple[Place, Footer]]:
        # Threads, since a store far away takes its time for every file.
        with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as threads:
            yield from zip(self._files, threads.map(read_footer, self._files), strict=True)

    def _open_lazily(self) -> None:
        self._open = lru_cache(_OPEN_FILES)(self._open_file)
        self._copies: dict[int, Path | None] = {}
        self._keys = lru_cache(1)(self._read_keys)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_open", "_copies", "_keys")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open_lazily()

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: Indices) -> list[tuple[bytes, int]]:
        """Encoded bytes and label of each index, in the order asked."""
        wanted = np.asarray(indices, dtype=np.int64)
        assert not len(wanted) or (wanted.min() >= 0 and wanted.max() < len(self))
        here = self._bring(wanted) if self._cache else self.folder.is_local
        if here:
            images = [self._read(index) for index in wanted.tolist()]
        else:
            # Many requests at once, since each takes its time.
            with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as threads:
                images = list(threads.map(self._read, wanted.tolist()))
        return list(zip(images, self.labels[wanted].tolist(), strict=True))

    def _bring(self, wanted: npt.NDArray[np.int64]) -> bool:
        """Copy the shards of these images, if not done; whether all of them are on this node."""
        assert self._cache
        numbers = {self._file_of(index) for index in wanted.tolist()}
        new = sorted(numbers - self._copies.keys())
        if new:
            with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as threads:
                self._copies.update(zip(new, threads.map(self._copy, new), strict=True))
        return all(self._copies[number] for number in numbers)

    def _copy(self, number: int) -> Path | None:
        assert self._cache
        file = self._files[number]
        try:
            return self._cache.copy(file, self._names[number], self._bytes[number])
        except OSError as error:
            raise UserError(f"{file} cannot be read: {error}.") from error

    def _read(self, index: int) -> bytes:
        number, size = self._file_of(index), int(self._sizes[index])
        try:
            image = self._open(number).read_at(size, int(self._offsets[index]))
        except OSError as error:
            raise UserError(f"{self._files[number]} cannot be read: {error}.") from error
        if len(image) != size:
            raise UserError(f"{self._files[number]} is damaged: it ends before its images do.")
        return image

    def _file_of(self, index: int) -> int:
        return int(np.searchsorted(self._first, index, side="right")) - 1

    def _open_file(self, number: int) -> pa.NativeFile:
        if copy := self._copies.get(number):
            return pa.OSFile(str(copy))
        file = self._files[number]
        return file.filesystem.open_input_file(file.path)

    def locate(self, index: int) -> str:
        """The image in words, by its key and the shard that holds it."""
        number = self._file_of(index)
        key = self._keys(number)[index - int(self._first[number])].as_py()
        return f"image {key!r} of {self._files[number]}"

    def _read_keys(self, number: int) -> pa.ChunkedArray:
        file = self._files[number]
        try:
            return pq.read_table(file.path, filesystem=file.filesystem, columns=["key"])["key"]
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{file} cannot be read: {error}.") from error


def holds_shards(folder: Place) -> bool:
    """Whether ``folder`` is a data set in this format rather than a tree of image files."""
    return any(
        name.endswith(".parquet")
        for split in ("train", "val")
        for name, _ in (folder / split).files()
    )


def shard_name(number: int, count: int) -> str:
    return f"{number:05d}-of-{count:05d}.parquet"


def _copys_name(about: dict[str, Any]) -> str:
    """Of a shard's copy: it has another one when anything in the shard changes."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest() + ".parquet"


def _complete(folder: Place) -> tuple[list[Place], list[int]]:
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


def read_footer(file: Place) -> Footer:
    """What Parquet and what this format say of one shard; UserError if it is none."""
    try:
        footer = pq.read_metadata(file.path, filesystem=file.filesystem)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{file} is damaged: {error}.") from error
    raw = (footer.metadata or {}).get(_METADATA_KEY)
    if raw is None:
        raise UserError(f"{file} is Parquet, but not a shard that ltm-platform wrote.")
    about = json.loads(raw)
    if about["version"] != FORMAT_VERSION:
        raise UserError(
            f"{file} has format {about['version']}; this version reads {FORMAT_VERSION}."
        )
    return footer, about
