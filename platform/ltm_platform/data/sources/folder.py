"""Images straight from a folder tree, one folder a class."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ltm_platform.data.search import Search, check_filesystem
from ltm_platform.data.source import DataSource
from ltm_platform.data.split import stratified_split
from ltm_platform.errors import UserError
from ltm_platform.storage.path import storage_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ltm_platform.data.cache import ShardCache
    from ltm_platform.data.image_set import Indices

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_EXPECTED = "train/<class>/*.jpg and val/<class>/*.jpg, or <class>/*.jpg alone"


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

    def _path(self, index: int) -> str:
        return os.fsdecode(self._paths[index].as_py())

    def _bytes(self, index: int) -> bytes:
        try:
            return (self.root / self._path(index)).read_bytes()
        except OSError as error:
            raise UserError(f"{self.locate(index)} cannot be read: {error.strerror}.") from error


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
        return open_folder(self._root(), val_fraction)

    def class_names(self) -> tuple[str, ...]:
        """The class folders, sorted by name."""
        root = self._root()
        return class_folders(root / "train" if (root / "train").is_dir() else root)

    def _root(self) -> Path:
        folder = storage_path(self.path)
        if not folder.is_local:
            raise UserError(
                f"{self.path} holds no shards: image files are trained on from a local folder "
                f"alone; 'ltm-platform data import {self.path} FOLDER' makes shards of them."
            )
        root = Path(folder.path)
        check_filesystem(root)
        return root


def open_folder(root: Path, val_fraction: float) -> tuple[FolderImages, FolderImages]:
    """Training and validation part of ``train/<class>/...`` with ``val/`` (or ``validation/``).

    A tree of ``<class>/...`` alone is split instead, see `stratified_split`. Classes and files
    are sorted by name; images may lie deeper below their class; hidden files are left alone.

    Raises:
        UserError: no images, a class without any, a part missing, or classes that differ.
    """
    train = root / "train"
    val = next((root / name for name in ("val", "validation") if (root / name).is_dir()), None)
    if val is None and not train.is_dir():
        return _split(_scan(root), val_fraction)
    if val is None:
        raise UserError(f"{root} has train/ but no val/ beside it; expected {_EXPECTED}.")
    if not train.is_dir():
        raise UserError(f"{root} has {val.name}/ but no train/ beside it; expected {_EXPECTED}.")
    parts = _scan(train), _scan(val)
    _same_classes(*parts)
    return parts


def class_folders(root: Path) -> tuple[str, ...]:
    """Names of the folders in ``root``, sorted. UserError when there are none."""
    entries = root.iterdir() if root.is_dir() else ()
    classes = sorted(entry.name for entry in entries if entry.is_dir() and not _hidden(entry.name))
    if not classes:
        raise UserError(f"{root} holds no class folders with images; expected {_EXPECTED}.")
    return tuple(classes)


def _scan(root: Path) -> FolderImages:
    classes = class_folders(root)
    search = Search(root)
    files = {name: _images(root, name, search) for name in classes}
    if not any(files.values()):
        raise UserError(
            f"{root} holds no image ({', '.join(EXTENSIONS)}) in a class folder; "
            f"expected {_EXPECTED}."
        )
    for name in classes:
        if not files[name]:
            raise UserError(
                f"{root / name} holds no image ({', '.join(EXTENSIONS)}): "
                "add some to this class or remove the folder."
            )
    labels = np.repeat(np.arange(len(classes)), [len(files[name]) for name in classes])
    paths = [path for name in classes for path in files[name]]
    return FolderImages(root, paths, labels, classes)


def _images(root: Path, name: str, search: Search) -> list[str]:
    """Sorted paths, relative to ``root``, of the images of class ``name``."""
    found = []
    for folder, inner, files in os.walk(root / name, followlinks=True):
        inner[:] = [
            entry
            for entry in inner
            if not _hidden(entry) and search.follows(os.path.join(folder, entry))
        ]
        relative = os.path.relpath(folder, root)
        images = [
            f"{relative}/{file}"
            for file in files
            if file.lower().endswith(EXTENSIONS) and not _hidden(file)
        ]
        search.saw(len(files) + len(inner), len(images))
        found += images
    return sorted(found)


def _hidden(name: str) -> bool:
    return name.startswith(".")


def _split(whole: FolderImages, val_fraction: float) -> tuple[FolderImages, FolderImages]:
    paths = [whole._path(index) for index in range(len(whole))]
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


def _same_classes(train: FolderImages, val: FolderImages) -> None:
    for here, there in ((train, val), (val, train)):
        extra = sorted(set(here.classes) - set(there.classes))
        if extra:
            more = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
            raise UserError(
                f"{here.root} has the class {extra[0]!r}{more} that {there.root} lacks; "
                "both need the same class folders."
            )
