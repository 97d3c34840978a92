"""A data set of shards, here or in an object store."""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING

from ltm_platform.data.source import DataSource
from ltm_platform.data.sources.shards.images import ShardImages
from ltm_platform.data.sources.shards.layout import UNFINISHED, holds_shards
from ltm_platform.errors import UserError
from ltm_platform.storage.path import storage_path

if TYPE_CHECKING:
    from ltm_platform.data.cache import ShardCache

_log = logging.getLogger(__name__)


@cache
def warn_unsealed(path: str) -> None:
    """Warn of shards of version 0.1, once in a process."""
    _log.warning(
        "%s holds shards of version 0.1, which carry no seal: damage may go unnoticed. "
        "'ltm-platform data import %s FOLDER' writes them anew.",
        path,
        path,
    )


class Shards(DataSource):
    """A folder or an address with ``train/`` and ``val/`` of shards."""

    cacheable = True

    @classmethod
    def claims(cls, path: str) -> bool:
        """Also for an import that has not been finished: it would pass for a smaller data set."""
        folder = storage_path(path)
        return (folder / UNFINISHED).exists() or holds_shards(folder)

    def open(
        self,
        *,
        val_fraction: float,  # noqa: ARG002 - shards have a validation part
        copies: ShardCache | None = None,
    ) -> tuple[ShardImages, ShardImages]:
        """Both splits."""
        folder = storage_path(self.path)
        if (folder / UNFINISHED).exists():
            raise UserError(
                f"the import into {self.path} was not finished: give the same "
                "'ltm-platform data import' command again, and it goes on."
            )
        train, val = (ShardImages(folder / split, copies) for split in ("train", "val"))
        if train.classes != val.classes:
            raise UserError(f"{folder / 'train'} and {folder / 'val'} have different classes.")
        if train.dataset != val.dataset:
            raise UserError(
                f"{folder / 'val'} belongs to another data set than {folder / 'train'}: images "
                "may be in both."
            )
        if train.dataset is None:
            warn_unsealed(self.path)
        return train, val

    def class_names(self) -> tuple[str, ...]:
        """As the footers have them."""
        return ShardImages(storage_path(self.path) / "val").classes
