"""What an import reads: encoded images with a class, listed before any is read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from ltm_platform.data.split import stratified_split
from ltm_platform.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ltm_platform.data.tree import LeftOut

LARGEST_BYTES = 64 << 20
_AT_ONCE = 64  # images that are labelled


class BadImageError(Exception):
    """An image cannot be had; the message says why, without the image's name."""


class Entry(NamedTuple):
    """One image: its name in messages, its class, about how many bytes, and where it lies, as its
    reader has it."""

    key: str
    label: int
    size: int
    where: Any


class Reader(Protocol):
    """Gives the bytes of entries; travels to the processes that write."""

    def read(self, entries: Sequence[Entry]) -> Iterator[bytes | BadImageError]:
        """The encoded bytes of each entry in turn, or why there are none."""


class Labeller(Protocol):
    """Gives unlabelled images a class each.

    name: of what decides, for the report.
    classes: all that it may give, whether an image has it or not.
    """

    name: str
    classes: tuple[str, ...]

    def __call__(self, images: Sequence[bytes]) -> list[int | None]:
        """The class of each encoded image, by its place in ``classes``; None where it cannot be
        decoded."""


@dataclass(frozen=True)
class Originals:
    """A data set as it was found.

    left_out: what is no image of it, and why.
    notices: what a user should know of it, in sentences.
    """

    reader: Reader
    classes: tuple[str, ...]
    splits: dict[str, list[Entry]]
    left_out: tuple[LeftOut, ...] = ()
    notices: tuple[str, ...] = ()


def with_validation(originals: Originals, val_fraction: float) -> Originals:
    """Split the training part where there is no other, as a folder tree is split for training."""
    if "val" in originals.splits:
        return originals
    entries = originals.splits["train"]
    labels = np.array([entry.label for entry in entries])
    parts = stratified_split(labels, [entry.key for entry in entries], val_fraction)
    if not len(parts[1]):
        raise UserError(
            "one image a class leaves none for validation: at least one class needs two."
        )
    splits = {
        name: [entries[i] for i in part] for name, part in zip(("train", "val"), parts, strict=True)
    }
    return replace(originals, splits=splits)


def labelled(
    originals: Originals, labeller: Labeller, listener: Callable[[int, int], None]
) -> Originals:
    """With the class of each image that the labeller gives. One that cannot be read or decoded gets
    the commonest, and is left out when it is written.

    listener: is called with images done and in all.
    """
    entries = [(split, entry) for split in originals.splits for entry in originals.splits[split]]
    labels: list[int | None] = []
    for start in range(0, len(entries), _AT_ONCE):
        part = [entry for _, entry in entries[start : start + _AT_ONCE]]
        read = originals.reader.read(part)
        labels += labeller([one if isinstance(one, bytes) else b"" for one in read])
        listener(len(labels), len(entries))
    counts = Counter(label for label in labels if label is not None)
    commonest = counts.most_common(1)[0][0] if counts else 0
    splits: dict[str, list[Entry]] = {split: [] for split in originals.splits}
    for (split, entry), label in zip(entries, labels, strict=True):
        splits[split].append(entry._replace(label=commonest if label is None else label))
    return replace(originals, classes=labeller.classes, splits=splits)
