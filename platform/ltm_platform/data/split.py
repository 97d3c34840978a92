"""A train/validation split that is the same everywhere and for ever."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence

IntArray = npt.NDArray[np.int64]


def stratified_split(
    labels: IntArray, keys: Sequence[str], val_fraction: float
) -> tuple[IntArray, IntArray]:
    """Sorted indices of the training and of the validation part, class by class.

    Every class gives ``val_fraction`` of its images, rounded, to validation: at least one and
    not all when it has two or more; a single image is for training. Images are ranked by the
    hash of their key, not by a random generator, so that no library version moves them and a
    new image does not reshuffle the others. ValueError unless 0 < val_fraction < 1.
    """
    if not 0 < val_fraction < 1:
        raise ValueError(f"val_fraction must lie between 0 and 1, not {val_fraction}")
    val = np.zeros(len(labels), dtype=bool)
    for members in _classes(labels, keys):
        if len(members) > 1:
            wanted = round(len(members) * val_fraction)
            val[members[: min(max(wanted, 1), len(members) - 1)]] = True
    return np.flatnonzero(~val), np.flatnonzero(val)


def stratified_fold(
    labels: IntArray, keys: Sequence[str], fold: int, folds: int
) -> tuple[IntArray, IntArray]:
    """Sorted indices outside and inside of one of ``folds`` equal parts, class by class.

    Every image is in one of the parts. Ranked as by `stratified_split`.
    """
    assert 0 <= fold < folds
    inside = np.zeros(len(labels), dtype=bool)
    for members in _classes(labels, keys):
        inside[members[fold::folds]] = True
    return np.flatnonzero(~inside), np.flatnonzero(inside)


def _classes(labels: IntArray, keys: Sequence[str]) -> list[npt.NDArray[np.intp]]:
    """The images of every class, ranked by the hashes of their keys."""
    assert len(labels) == len(keys)
    ranks = np.array(
        [
            int.from_bytes(blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest())
            for key in keys
        ],
        dtype=np.uint64,
    )
    return _runs(labels, np.lexsort((ranks, labels)))


def _runs(labels: IntArray, order: npt.NDArray[np.intp]) -> list[npt.NDArray[np.intp]]:
    """``order``, which is sorted by label, cut where the label changes."""
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
