"""Images straight from a folder tree, one folder a class."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ltm_platform.data.source import DataSource
from ltm_platform.data.split import stratified_split
from ltm_platform.data.tree import (
    EXPECTED,
    TRAIN,
    Tree,
    all_notices,
    arrange,
    class_folders,
    list_folder,
)
from ltm_platform.errors import ReadError, UserError
from ltm_platform.storage.path import storage_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ltm_platform.data.cache import ShardCache
    from ltm_platform.data.image_set import Indices


class FolderImages:
    """Image files below ``root`` (see `ImageSet`)."""

    def __init__(
        self,
        root: Path,
        paths: Sequence[str],
        labels: npt.NDArray[np.int64],
        classes: tuple[str, ...],
    ) -> None:
        assert len(paths) == len(labels)
        self.root = root
        self._prefix = os.path.join(root, "")  # a Path an image costs more than a stage of it
        # One buffer, not a million Python strings: every decode process gets a copy.
        self._paths = pa.array([os.fsencode(path) for path in paths], pa.large_binary())
        self.labels = labels
        self.classes = classes

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: Indices) -> list[tuple[bytes, int]]:
        """Encoded bytes and label of each index, in the order of the indices."""
        return [(self._bytes(int(i)), int(self.labels[i])) for i in indices]

    def locate(self, index: int) -> str:
        """The image in words, by its path."""
        return f"image {self._path(index)!r} of {self.root}"

    def paths(self) -> Iterator[str]:
        """Of all images, below ``root``."""
        return map(self._path, range(len(self)))

    def _path(self, index: int) -> str:
        return os.fsdecode(self._paths[index].as_py())

    def _bytes(self, index: int) -> bytes:
        try:
            with open(self._prefix + self._path(index), "rb", buffering=0) as file:
                return file.read()
        except OSError as error:
            raise ReadError(f"{self.locate(index)} cannot be read: {error.strerror}.") from error


class Folder(DataSource):
    """A local folder tree of image files."""

    @classmethod
    def claims(cls, path: str) -> bool:
        """Any folder that no other source claims."""
        return storage_path(path).is_folder()

    def open(
        self,
        *,
        val_fraction: float,
        copies: ShardCache | None = None,  # noqa: ARG002 - files are read where they are
    ) -> tuple[FolderImages, FolderImages]:
        """Training and validation part, see `open_folder`."""
        train, val, tree = open_folder(self._root(), val_fraction)
        self.notices = all_notices(tree.notices, tree.left_out)
        return train, val

    def class_names(self) -> tuple[str, ...]:
        """The class folders, sorted by name."""
        root = self._root()
        return class_folders(str(root / TRAIN if (root / TRAIN).is_dir() else root))

    def _root(self) -> Path:
        folder = storage_path(self.path)
        if not folder.is_local:
            raise UserError(
                f"{self.path} holds no shards: image files are trained on from a local folder "
                f"alone; 'ltm-platform data import {self.path} FOLDER' makes shards of them."
            )
        return Path(folder.path)


def open_folder(root: Path, val_fraction: float) -> tuple[FolderImages, FolderImages, Tree]:
    """Training and validation part of ``train/<class>/...`` with ``val/`` (or ``validation/``).

    A tree of ``<class>/...`` alone is split instead, see `stratified_split`. Classes and files
    are sorted by name; images may lie deeper below their class. The tree says what is left out.

    Raises:
        UserError: no images, a class without any, a part missing, or classes that differ.
    """
    tree = arrange(list_folder(str(root)), str(root))
    if not tree.folders:
        return *_split(_part(root, tree, TRAIN), val_fraction), tree
    if tree.folders.keys() == {TRAIN}:
        raise UserError(f"{root} has train/ but no val/ beside it; expected {EXPECTED}.")
    return _part(root, tree, TRAIN), _part(root, tree, "val"), tree


def _part(root: Path, tree: Tree, split: str) -> FolderImages:
    folder = tree.folders.get(split)
    images = tree.splits[split]
    cut = len(f"{folder}/") if folder else 0
    return FolderImages(
        root / folder if folder else root,
        [file.path[cut:] for _, file in images],
        np.array([label for label, _ in images], dtype=np.int64),
        tree.classes,
    )


def _split(whole: FolderImages, val_fraction: float) -> tuple[FolderImages, FolderImages]:
    paths = list(whole.paths())
    parts = stratified_split(whole.labels, paths, val_fraction)
    if not len(parts[1]):
        raise UserError(
            f"{whole.root} has one image a class, which leaves none for validation: "
            "at least one class needs two."
        )
    train, val = (
        FolderImages(whole.root, [paths[i] for i in part], whole.labels[part], whole.classes)
        for part in parts
    )
    return train, val
