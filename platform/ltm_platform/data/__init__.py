"""Image data: what there is (`open_dataset`), and the loader that reads it (`.loader`).

Opening a data set needs pyarrow and numpy alone; torch and timm come with `.loader` and
`.transforms`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ltm_platform.data.cache import ShardCache
from ltm_platform.data.image_set import ImageSet
from ltm_platform.data.sources import find_source
from ltm_platform.data.subset import fold, subset
from ltm_platform.errors import ReadError
from ltm_platform.storage.addresses import shown
from ltm_platform.storage.path import is_address, reason

if TYPE_CHECKING:
    from ltm_platform.job import Data

__all__ = ["Dataset", "ImageSet", "open_data", "open_dataset"]


@dataclass(frozen=True)
class Dataset:
    """Training and validation images over the same classes."""

    name: str
    train: ImageSet
    val: ImageSet
    classes: tuple[str, ...]
    notices: tuple[str, ...] = ()
    """What a user should know of the set, in sentences: such as files that are left out."""

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
            ``s3://bucket/folder``, a local folder tree of images, or what a source of another
            package claims.
        cache: folder where ``digits`` is written once.
        val_fraction: share of a tree without its own ``val/`` that becomes the validation part.
        copies: where shards are copied before they are read; None reads them where they are.

    Raises:
        UserError: nothing there, or not what it should be; the sentence says how to correct it.
    """
    try:
        source = find_source(path, cache)
        train, val = source.open(val_fraction=val_fraction, copies=copies)
    except OSError as error:
        if not is_address(path):
            raise
        raise ReadError(f"{shown(path)} cannot be read{reason(error, path)}.") from error
    return Dataset(path, train, val, train.classes, source.notices)
