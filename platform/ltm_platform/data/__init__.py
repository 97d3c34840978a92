"""Image data: what there is (`open_dataset`), and the loader that reads it (`.loader`).

Opening a data set needs pyarrow and numpy alone; torch and timm come with `.loader` and
`.transforms`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ltm_platform.data.cache import ShardCache
from ltm_platform.data.source import Source
from ltm_platform.data.sources.digits import open_digits
from ltm_platform.data.sources.folder import open_folder
from ltm_platform.data.sources.shards import UNFINISHED, ParquetSource, holds_shards
from ltm_platform.data.subset import fold, subset
from ltm_platform.errors import UserError, nearest
from ltm_platform.storage.path import is_address, storage_path

if TYPE_CHECKING:
    from ltm_platform.job import Data

__all__ = ["Dataset", "Source", "open_data", "open_dataset"]


@dataclass(frozen=True)
class Dataset:
    """Training and validation images over the same classes."""

    name: str
    train: Source
    val: Source
    classes: tuple[str, ...]

    def describe(self) -> str:
        """One line, e.g. ``digits: 1,438 training and 359 validation images, 10 classes``."""
        return (
            f"{self.name}: {len(self.train):,} training and {len(self.val):,} validation images, "
            f"{len(self.classes):,} classes"
        )


def open_data(data: Data, *, cache: Path, copying: bool = False) -> Dataset:
    """The data set of a job: the whole, or the part of it that the job names.

    ``copying``: shards that are read are copied into ``data.cache`` first, if the job names one.

    Raises:
        UserError: as `open_dataset`, or there are too few images for the part.
    """
    copies = ShardCache(Path(data.cache)) if copying and data.cache else None
    whole = open_dataset(data.path, cache=cache, val_fraction=data.val_fraction, copies=copies)
    train, val = subset(whole.train, data.subset), whole.val
    if data.fold is not None:
        train, val = fold(train, data.fold, data.folds)
    return replace(whole, train=train, val=val)


def open_dataset(
    path: str, *, cache: Path, val_fraction: float, copies: ShardCache | None = None
) -> Dataset:
    """The data set that ``path`` names.

    Args:
        path: the word ``digits``, a folder of shards, here or at an address such as
            ``s3://bucket/folder``, or a local folder tree of images.
        cache: folder where ``digits`` is written once.
        val_fraction: share of a tree without its own ``val/`` that becomes the validation part.
        copies: where shards are copied before they are read; None reads them where they are.

    Raises:
        UserError: nothing there, or not what it should be; the sentence says how to mend it.
    """
    train: Source
    val: Source
    if path == "digits":
        train, val = open_digits(cache)
        return Dataset(path, train, val, train.classes)
    folder = storage_path(path)
    if not folder.is_folder():
        raise UserError(_missing(path))
    if (folder / UNFINISHED).exists():
        raise UserError(
            f"the import into {path} was not finished: give the same "
            "'ltm-platform data import' command again, and it goes on."
        )
    if holds_shards(folder):
        train, val = (ParquetSource(folder / split, copies) for split in ("train", "val"))
        if train.classes != val.classes:
            raise UserError(f"{folder / 'train'} and {folder / 'val'} have different classes.")
    elif folder.is_local:
        train, val = open_folder(Path(folder.path), val_fraction)
    else:
        raise UserError(
            f"{path} holds no shards: image files are trained on from a local folder alone; "
            f"'ltm-platform data import {path} FOLDER' makes shards of them."
        )
    return Dataset(path, train, val, train.classes)


def _missing(path: str) -> str:
    if is_address(path):
        return f"{path} not found: there is no such folder in that store."
    given = Path(path).expanduser()
    where = "" if given.is_absolute() else f" in {Path.cwd()}"
    what = f"{path}{where} is not a folder" if given.exists() else f"{path} not found{where}"
    if "imagenet" in path.lower():
        return (
            f"{what}: for ImageNet-1k register at https://image-net.org, unpack it as "
            "train/<class>/*.JPEG and val/<class>/*.JPEG, and pass --set data.path=FOLDER."
        )
    return (
        f"{what}: pass --set data.path=FOLDER with a folder of train/<class>/*.jpg and "
        "val/<class>/*.jpg (or <class>/*.jpg alone), a folder of shards, or the word 'digits'"
        f"{nearest(path, ['digits'])}."
    )
