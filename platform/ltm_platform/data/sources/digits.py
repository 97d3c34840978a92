"""The UCI handwritten digits of scikit-learn: real images on a machine with no data and no net."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ltm_platform.data.source import DataSource
from ltm_platform.data.sources.shards import (
    FORMAT_VERSION,
    Record,
    ShardImages,
    dataset_digest,
    write_shards,
)
from ltm_platform.data.split import stratified_split
from ltm_platform.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from ltm_platform.data.cache import ShardCache

VAL_FRACTION = 0.2
CLASSES = tuple(map(str, range(10)))


class Digits(DataSource):
    """The word ``digits``: written as shards into a folder of the cache at the first use.

    1,797 scans of 8 x 8 pixels as grey PNGs; the 80/20 stratified split never changes.
    """

    word = "digits"

    def open(
        self,
        *,
        val_fraction: float = VAL_FRACTION,  # noqa: ARG002 - the split is fixed
        copies: ShardCache | None = None,  # noqa: ARG002 - on this machine's disk already
    ) -> tuple[ShardImages, ShardImages]:
        """Training and validation part."""
        folder = self.cache / f"digits-{FORMAT_VERSION}"
        if not all((folder / split).is_dir() for split in ("train", "val")):
            _write(folder)
        try:
            return ShardImages(folder / "train"), ShardImages(folder / "val")
        except UserError as error:
            raise UserError(f"{error} Remove {folder}, and it is written anew.") from None

    def class_names(self) -> tuple[str, ...]:
        """0 to 9."""
        return CLASSES


def _write(folder: Path) -> None:
    from sklearn.datasets import load_digits  # 3 s to import, and needed once

    scans, labels = load_digits(return_X_y=True)
    # Ink is counted from 0 to 16.
    pixels = np.rint(scans.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    keys = [f"digits/{number:04d}" for number in range(len(labels))]
    parts = stratified_split(labels, keys, VAL_FRACTION)
    records = [Record(_png(pixels[i]), int(labels[i]), keys[i]) for i in range(len(labels))]
    dataset = dataset_digest(CLASSES, records)
    for split, part in zip(("train", "val"), parts, strict=True):
        write_shards(folder, split, [records[i] for i in part], CLASSES, dataset=dataset)


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
