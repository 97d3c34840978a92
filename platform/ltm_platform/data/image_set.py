"""What the loader asks of a set of images, wherever they are stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

Indices = Sequence[int] | npt.NDArray[np.int64]


class ImageSet(Protocol):
    """A fixed sequence of encoded images with labels.

    Sources are pickled to the decode processes: they open files lazily and carry no handles.
    """

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a label is a position in this tuple."""

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """Labels of all images, [len(self)]."""

    def __len__(self) -> int: ...

    def read(self, indices: Indices) -> list[tuple[bytes, int]]:
        """Encoded bytes and label of each index, in their order.

        Raises:
            UserError: a file is damaged; the sentence names it. No attempt is made again.
            ReadError: it cannot be read now; another attempt may help.
        """

    def locate(self, index: int) -> str:
        """The image in words for an error message, e.g. ``image 'cat/7.jpg' of /data/train``."""
