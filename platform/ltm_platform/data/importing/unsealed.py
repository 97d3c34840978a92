"""Shards of version 0.1, to be written anew with a place and a seal."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from ltm_platform.data.importing.originals import BadImageError, Entry, Originals
from ltm_platform.data.sources.shards import ShardImages, list_split, read_footer, verify_shard
from ltm_platform.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ltm_platform.storage.path import StoragePath


def open_unsealed(root: StoragePath) -> Originals | None:
    """What the shards in ``root`` hold, or None if they are sealed.

    Raises:
        UserError: they are damaged.
    """
    splits = {split: ShardImages(root / split) for split in ("train", "val")}
    if all(images.dataset is not None for images in splits.values()):
        return None
    if splits["train"].classes != splits["val"].classes:
        raise UserError(f"{root / 'train'} and {root / 'val'} have different classes.")
    files: list[StoragePath] = []
    entries: dict[str, list[Entry]] = {split: [] for split in splits}
    for split in splits:
        for name in list_split(root / split).shards:
            file = root / split / name
            footer = read_footer(file)
            for problem in verify_shard(file, footer):
                raise UserError(problem)
            keys = pq.read_table(file.path, filesystem=file.filesystem, columns=["key"])["key"]
            for row, (key, size, label) in enumerate(
                zip(keys.to_pylist(), *footer.index[1:3].tolist(), strict=True)
            ):
                entries[split].append(Entry(key, label, size, (len(files), row)))
            files.append(file)
    return Originals(_Reader(tuple(files)), splits["train"].classes, entries)


@dataclass(frozen=True)
class _Reader:
    files: tuple[StoragePath, ...]

    def read(self, entries: Sequence[Entry]) -> Iterator[bytes | BadImageError]:
        images = lru_cache(1)(self._images)
        for entry in entries:
            number, row = entry.where
            yield images(number)[row]

    def _images(self, number: int) -> list[bytes]:
        file = self.files[number]
        images: list[bytes] = pq.read_table(
            file.path, filesystem=file.filesystem, columns=["image"]
        )["image"].to_pylist()
        return images
