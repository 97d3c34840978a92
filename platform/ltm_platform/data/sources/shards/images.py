"""Shards are read: any image at random, here or in an object store, or from copies of them."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ltm_platform.data.sources.shards.layout import complete_shards, read_footer, unpacked_index
from ltm_platform.errors import UserError
from ltm_platform.storage.path import StoragePath, storage_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ltm_platform.data.cache import ShardCache
    from ltm_platform.data.image_set import Indices
    from ltm_platform.data.sources.shards.layout import Footer

_OPEN_FILES = 64
_REQUESTS_AT_ONCE = 16


class ShardImages:
    """The images of one split, read from its shards (see `ImageSet`).

    Opening reads the footers, and with them the index, 24 bytes an image. Files are opened lazily
    in every process that reads; with a ``cache`` they are copied into it first, and read there.

    Raises:
        UserError: no shards, a shard missing, damaged or of another format.
    """

    def __init__(self, folder: Path | StoragePath, cache: ShardCache | None = None) -> None:
        self.folder = folder if isinstance(folder, StoragePath) else storage_path(folder)
        self._cache = cache
        self._files, self._bytes = complete_shards(self.folder)
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

    def _footers(self) -> Iterator[tuple[StoragePath, Footer]]:
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


def _copys_name(about: dict[str, Any]) -> str:
    """Of a shard's copy: it has another one when anything in the shard changes."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest() + ".parquet"
