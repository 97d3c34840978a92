"""Shards are read: any image at random, here or in an object store, or from copies of them."""

from __future__ import annotations

import hashlib
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ltm_platform.data.sources.shards.layout import Footer, complete_shards, read_footer
from ltm_platform.errors import ReadError, UserError
from ltm_platform.storage.path import StoragePath, storage_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ltm_platform.data.cache import ShardCache
    from ltm_platform.data.image_set import Indices

_OPEN_FILES = 64
_REQUESTS_AT_ONCE = 16
_CHUNK = 4 << 20


class Readable(Protocol):
    """An open file, of Python or of pyarrow."""

    def read(self, size: int, /) -> bytes: ...


class ShardImages:
    """The images of one split, read from its shards (see `ImageSet`).

    Opening reads the footers, and with them the index, 28 bytes an image, and verifies that every
    shard is in its place. Files are opened lazily in every process that reads; with a ``cache``
    they are copied into it first, verified once, and read there. Every image that is read is
    verified.

    Verifying image by image rather than shard by shard: the first batches of a shuffled epoch
    touch nearly all shards, so that all would have to be read before the first step.

    split: the name of the split, if it is not that of the folder.
    dataset: what identifies the data set; None for shards of version 0.1, which are not sealed.

    Raises:
        UserError: no shards, a shard missing, damaged, misplaced or of another format.
    """

    def __init__(
        self,
        folder: Path | StoragePath,
        cache: ShardCache | None = None,
        split: str | None = None,
    ) -> None:
        self.folder = folder if isinstance(folder, StoragePath) else storage_path(folder)
        self._cache = cache
        self._files, self._bytes = complete_shards(self.folder)
        footers = list(self._footers())
        check_places(self._files, footers, split or self.folder.name)
        first = footers[0]
        self.classes = first.classes
        self.dataset = first.place and first.place.dataset
        counts = np.array([footer.counts for footer in footers], dtype=np.int64).sum(axis=0)
        self.counts: tuple[int, ...] = tuple(counts.tolist())
        self.checksum = hashlib.sha256("".join(f.digest for f in footers).encode()).hexdigest()
        self._copied = [_Copied.of(footer) for footer in footers] if cache else []
        self._offsets, sizes, self.labels, *crcs = np.concatenate(
            [footer.index for footer in footers], axis=1
        )
        # Narrow, since every decode process holds them.
        self._sizes = sizes.astype(np.uint32 if sizes.max(initial=0) < 1 << 32 else np.int64)
        self._crcs = crcs[0].astype(np.uint32) if crcs else None
        self._first = np.cumsum([0, *(footer.images for footer in footers)])
        self._open_lazily()

    def _footers(self) -> Iterator[Footer]:
        # Threads, since a store far away takes its time for every file.
        with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as threads:
            yield from threads.map(read_footer, self._files)

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
        """Encoded bytes and label of each index, in the order of the indices."""
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
            its = self._copied[number]
            return self._cache.copy(file, its.name, self._bytes[number], its.check)
        except OSError as error:
            raise ReadError(f"{file} cannot be read: {error}.") from error

    def _read(self, index: int) -> bytes:
        number, size = self._file_of(index), int(self._sizes[index])
        try:
            image = self._open(number).read_at(size, int(self._offsets[index]))
        except OSError as error:
            raise ReadError(f"{self._files[number]} cannot be read: {error}.") from error
        if len(image) != size:
            raise UserError(f"{self._where(number)} is damaged: it ends before its images do.")
        if self._crcs is not None and zlib.crc32(image) != self._crcs[index]:
            row = index - int(self._first[number])
            raise UserError(
                f"{self._where(number)} is damaged: image {row} in it has another checksum than "
                "when it was written."
            )
        return image

    def _where(self, number: int) -> str:
        """The file that is read, in words."""
        file = self._files[number]
        copy = self._copies.get(number)
        return f"{copy}, the copy of {file} (remove it and it is made anew)," if copy else str(file)

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
        row = index - int(self._first[number])
        try:
            name = repr(self._keys(number)[row].as_py())
        # Keys are not verified, and are wanted in messages alone.
        except (OSError, pa.ArrowException, ValueError, IndexError):
            name = str(row)
        return f"image {name} of {self._files[number]}"

    def _read_keys(self, number: int) -> pa.ChunkedArray:
        file = self._files[number]
        return pq.read_table(file.path, filesystem=file.filesystem, columns=["key"])["key"]


def check_places(files: Sequence[StoragePath], footers: Sequence[Footer], split: str) -> None:
    """UserError unless these are the shards of one ``split``, each in its place."""
    first = footers[0]
    for number, (file, footer) in enumerate(zip(files, footers, strict=True)):
        if problem := misplaced(file, footer, split, number, len(files)):
            raise UserError(problem)
        if problem := of_another_set(file, footer, files[0], first):
            raise UserError(problem)
    entries = sum(footer.images + len(footer.skipped) for footer in footers)
    if first.place and entries != first.place.entries:
        raise UserError(
            f"{files[0]} and the shards beside it were made of {entries:,} images where "
            f"{first.place.entries:,} were written."
        )


def misplaced(
    file: StoragePath, footer: Footer, split: str, number: int, shards: int
) -> str | None:
    """The sentence if ``file`` was written for another place."""
    place = footer.place
    if place is None:
        there, right = f"{footer.split}/{file.name}", footer.split == split
    else:
        there, right = place.name, place[1:4] == (split, number, shards)
    if right:
        return None
    return (
        f"{file} was written as {there}: shards have been moved or copied over each other; put "
        "them back or import the images again."
    )


def of_another_set(
    file: StoragePath, footer: Footer, other: StoragePath, others: Footer
) -> str | None:
    """The sentence if ``file`` belongs to another data set than ``other``."""
    if footer.classes != others.classes:
        return f"{file} has other classes than {other}."
    if (footer.place is None) != (others.place is None):
        bare, whole = (file, other) if footer.place is None else (other, file)
        return f"{bare} has no seal, but {whole} has one: it is damaged or of another data set."
    if footer.place and others.place and footer.place.dataset != others.place.dataset:
        return f"{file} belongs to another data set than {other}."
    return None


@dataclass(frozen=True, slots=True)
class _Copied:
    """A shard's copy: its name, which differs from that of any other content, and its check."""

    name: str
    data_bytes: int
    sha256: str | None

    @classmethod
    def of(cls, footer: Footer) -> _Copied:
        checksum = footer.checksum if footer.place else None
        return cls(f"{footer.digest}.parquet", footer.data_bytes, checksum)

    def check(self, copy: Path) -> bool:
        """Whether the bytes before the footer are those that were written."""
        if self.sha256 is None:
            return True
        with copy.open("rb") as content:
            return data_checksum(content, self.data_bytes) == self.sha256


def data_checksum(content: Readable, count: int) -> str:
    """SHA-256 of the first ``count`` bytes of an open file."""
    digest = hashlib.sha256()
    while count > 0 and (chunk := content.read(min(count, _CHUNK))):
        digest.update(chunk)
        count -= len(chunk)
    return digest.hexdigest()
