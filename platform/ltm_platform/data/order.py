"""Which image comes when: a pure function of the seed, the same for any number of workers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ltm_platform.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """Images to decode together: positions in the source and, for each, its pass over the data."""

    indices: IntArray
    passes: IntArray

    def __getitem__(self, part: slice) -> Batch:
        return Batch(self.indices[part], self.passes[part])


@dataclass(frozen=True)
class Order:
    """An endless stream of shuffled passes over the images, cut into global batches.

    Pass p is a permutation drawn from (seed, p), so that every image comes once in it and none is
    dropped. Epoch e ends with the batch that holds the last image of pass e. What is left of that
    batch opens the next pass, so the epochs' lengths differ by a batch where passes do not fill
    whole ones.
    """

    images: int
    global_batch: int
    seed: int

    def steps(self, epochs: int) -> int:
        """Global batches, that is optimizer steps, of the first ``epochs`` epochs."""
        return -(-epochs * self.images // self.global_batch)

    def epochs(self, steps: int) -> int:
        """Epochs that end within the first ``steps`` global batches."""
        return steps * self.global_batch // self.images

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The global batches of ``epoch`` but for the first ``start``."""
        begin, end = self.steps(epoch), self.steps(epoch + 1)
        assert 0 <= start <= end - begin
        for step in range(begin + start, end):
            position = np.arange(step * self.global_batch, (step + 1) * self.global_batch)
            passes, offset = np.divmod(position, self.images)
            indices = np.empty_like(position)
            for number in np.unique(passes):
                here = passes == number
                indices[here] = self._permutation(int(number))[offset[here]]
            yield Batch(indices, passes)

    def image_after(self, index: int, number: int) -> int:
        """The image that follows ``index`` in pass ``number``; the first one follows the last."""
        order = self._permutation(number)
        return int(order[(int(np.flatnonzero(order == index)[0]) + 1) % self.images])

    def _permutation(self, number: int) -> IntArray:
        return _permutation(self.images, self.seed, number)


@lru_cache(2)
def _permutation(images: int, seed: int, number: int) -> IntArray:
    return np.random.default_rng([seed, number]).permutation(images)


def check_global_batch(images: int, global_batch: int, world_size: int = 1) -> None:
    """UserError unless ``images`` fill one global batch; it names the largest that would do."""
    if images >= global_batch:
        return
    largest = images // world_size * world_size
    if not largest:
        raise UserError(
            f"{images:,} training images cannot be shared by {world_size} workers: "
            f"at most {images} workers can train on them."
        )
    raise UserError(
        f"the global batch of {global_batch:,} is larger than the training set of {images:,} "
        f"images: at most {largest:,} can be used"
        + (f" on {world_size} workers." if world_size > 1 else ".")
    )
