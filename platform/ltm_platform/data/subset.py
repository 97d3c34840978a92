"""Some of the images of a set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ltm_platform.data.split import stratified_fold, stratified_split
from ltm_platform.errors import UserError

if TYPE_CHECKING:
    import numpy.typing as npt

    from ltm_platform.data.image_set import ImageSet, Indices


class Subset:
    """The images of ``whole`` at ``indices`` (see `ImageSet`)."""

    def __init__(self, whole: ImageSet, indices: npt.NDArray[np.int64]) -> None:
        self._whole = whole
        self._indices = indices
        self.classes = whole.classes
        self.labels = whole.labels[indices]

    def __len__(self) -> int:
        return len(self._indices)

    def read(self, indices: Indices) -> list[tuple[bytes, int]]:
        """Encoded bytes and label of each index, in the order of the indices."""
        return self._whole.read(self._indices[np.asarray(indices)])

    def locate(self, index: int) -> str:
        """The image in words, by its place in the whole."""
        return self._whole.locate(int(self._indices[index]))


def subset(source: ImageSet, share: float) -> ImageSet:
    """A share of the images of every class, one of each at least; always the same ones."""
    if share == 1:
        return source
    return Subset(source, stratified_split(source.labels, _keys(source), share)[1])


def thinned(source: ImageSet, images: int) -> ImageSet:
    """As many of the images, evenly from among all; the whole where it has no more."""
    if images >= len(source):
        return source
    return Subset(source, np.arange(images) * len(source) // images)


def fold(source: ImageSet, number: int, of: int) -> tuple[ImageSet, ImageSet]:
    """All images but one of ``of`` parts, and that part.

    Raises:
        UserError: there are too few images for so many parts.
    """
    rest, held_out = stratified_fold(source.labels, _keys(source), number, of)
    if not len(rest) or not len(held_out):
        raise UserError(f"{len(source)} training images are too few for {of} folds.")
    return Subset(source, rest), Subset(source, held_out)


def _keys(source: ImageSet) -> list[str]:
    """Images are identified by their index, which is fixed: names would have to be read."""
    return [str(index) for index in range(len(source))]
