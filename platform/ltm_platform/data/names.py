"""The names of a data set's classes, without a look at its images."""

from __future__ import annotations

from pathlib import Path

from ltm_platform.data.sources.digits import open_digits
from ltm_platform.data.sources.folder import class_folders
from ltm_platform.data.sources.shards import ParquetSource, holds_shards
from ltm_platform.storage.path import storage_path


def class_names(path: str, *, cache: Path) -> tuple[str, ...]:
    """The classes of ``data.path`` in the order of their labels; see `open_dataset`.

    Raises:
        UserError: there is nothing that can be read as a data set.
    """
    if path == "digits":
        return open_digits(cache)[1].classes
    folder = storage_path(path)
    if holds_shards(folder):
        return ParquetSource(folder / "val").classes
    root = Path(folder.path)
    return class_folders(root / "train" if (root / "train").is_dir() else root)
