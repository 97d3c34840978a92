"""The loaders that training and evaluation iterate, one object a rank."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from ltm_platform.data.bad_images import BadImages
from ltm_platform.data.decode import STANDARD, DecodedBatch, Decoder, Spent
from ltm_platform.data.order import Batch, Order, check_global_batch
from ltm_platform.data.processes import DecodePool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ltm_platform.compat.image_loader.pixels import PixelRule
    from ltm_platform.data.image_set import ImageSet
    from ltm_platform.data.pixels.sample import Changes, Pipeline


class TrainingBatch(NamedTuple):
    """Images [b, 3, H, W] uint8 and labels [b] int64 in the memory of the host, and what is left to
    do to the images where the network is: see `ToNetwork`."""

    images: torch.Tensor
    labels: torch.Tensor
    changes: Changes


class Loader:
    """Shuffled micro-batches of this rank's part of every global batch.

    The global batch G = micro_batch * accumulation * world_size. Which images make global batch k
    of epoch e, and how each is augmented, depends on (seed, G, k, e) alone: not on the world
    size, the decode processes, or where training was resumed. Within it, micro-batches go to
    the ranks in turn. Every image comes once an epoch, whose end is rounded up to a whole global
    batch (see `Order`).

    Args:
        source: images of the whole training set, the same on every rank.
        pipeline: from an encoded image to the pixels of a sample.
        micro_batch: images a forward pass on one rank.
        accumulation: micro-batches a rank an optimizer step.
        rank: this rank, from 0 to ``world_size - 1``.
        world_size: ranks in all.
        seed: 0 or more; of the order and of the augmentation.
        workers: decode processes of this rank; 0 decodes in the calling process.
        rule: what is shown of a picture.
        allow_bad: share of the images that may be impossible to decode. The next image of the same
            pass takes the place of such a one.

    workers: as it was given.
    bad: those that were met.
    spent: what reading and decoding of all batches so far has taken.

    Raises:
        UserError: the source is smaller than one global batch.
    """

    def __init__(
        self,
        source: ImageSet,
        pipeline: Pipeline,
        *,
        micro_batch: int,
        accumulation: int,
        rank: int,
        world_size: int,
        seed: int,
        workers: int,
        rule: PixelRule = STANDARD,
        allow_bad: float = 0.0,
    ) -> None:
        assert micro_batch > 0
        assert accumulation > 0
        assert 0 <= rank < world_size
        global_batch = micro_batch * accumulation * world_size
        check_global_batch(len(source), global_batch, world_size)
        self._order = Order(len(source), global_batch, seed)
        self._micro_batch = micro_batch
        self._rank = rank
        self._world_size = world_size
        self.workers = workers
        self.bad = BadImages("training", len(source), allow_bad)
        self.spent = Spent()
        decoder = Decoder(source, pipeline, seed, rule, order=self._order, allowed=self.bad.allowed)
        self._pool = DecodePool(decoder, workers, micro_batch)

    def steps(self, epochs: int) -> int:
        """Global batches, that is optimizer steps, of the first ``epochs`` epochs."""
        return self._order.steps(epochs)

    def epochs(self, steps: int) -> int:
        """Epochs that end within the first ``steps`` optimizer steps."""
        return self._order.epochs(steps)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[TrainingBatch]:
        """Micro-batches of ``epoch``.

        There are ``accumulation`` of them an optimizer step. Decode processes begin at once, so
        that the first are there when they are needed. ``start`` is the number of steps, that is
        of global batches, already done of this epoch, on however many ranks. The epoch may be left
        before its end; begin the next one only then.

        Raises:
            UserError: an image cannot be read, or more cannot be decoded than may be; names it and
                its source.
        """
        return self._noted(self._pool.decode(self._micro_batches(epoch, start)))

    def _noted(self, batches: Iterator[DecodedBatch]) -> Iterator[TrainingBatch]:
        for batch in batches:
            self.bad.add({one.image: one.sentence for one in batch.bad})
            self.spent.add(batch.spent)
            yield TrainingBatch(batch.images, batch.labels, batch.changes)

    def _micro_batches(self, epoch: int, start: int) -> Iterator[Batch]:
        stride = self._micro_batch * self._world_size
        for batch in self._order.epoch(epoch, start):
            for first in range(self._rank * self._micro_batch, len(batch.indices), stride):
                yield batch[first : first + self._micro_batch]

    def close(self) -> None:
        """End the decode processes at once."""
        self._pool.close()


class EvalLoader:
    """Every image exactly once over all ranks, in the source's order.

    Every rank has the same number of batches of the same size, since a forward pass may be
    collective; where the images run out, rows repeat and ``valid`` is False. So it is for an image
    that cannot be decoded.

    ``len(loader)`` is the number of batches a rank. Arguments as for `Loader`.

    bad: the images that cannot be decoded.
    """

    def __init__(
        self,
        source: ImageSet,
        pipeline: Pipeline,
        *,
        batch: int,
        rank: int,
        world_size: int,
        workers: int,
        rule: PixelRule = STANDARD,
        allow_bad: float = 0.0,
    ) -> None:
        assert batch > 0
        assert 0 <= rank < world_size
        assert len(source) > 0
        self._images = len(source)
        self._batch = batch
        self._rank = rank
        self._world_size = world_size
        self.bad = BadImages("validation", len(source), allow_bad)
        self._pool = DecodePool(Decoder(source, pipeline, 0, rule), workers, batch)

    def __len__(self) -> int:
        return -(-self._images // (self._batch * self._world_size))

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Images [b, 3, H, W] uint8, labels [b] int64, valid [b] bool; errors as for `Loader`."""
        decoded = self._pool.decode(map(self._indices, range(len(self))))
        for step, (images, labels, _, bad, _) in enumerate(decoded):
            self.bad.add({one.image: one.sentence for one in bad})
            repeats = torch.arange(self._batch).clamp(max=len(labels) - 1)
            valid = torch.arange(self._batch) < self._images - self._first(step)
            valid[[one.row for one in bad]] = False
            if len(labels) < self._batch:
                images, labels = images[repeats], labels[repeats]
            yield images, labels, valid

    def _first(self, step: int) -> int:
        return (step * self._world_size + self._rank) * self._batch

    def _indices(self, step: int) -> Batch:
        first = self._first(step)
        indices = np.arange(first, min(first + self._batch, self._images))
        if not len(indices):  # padding still needs the shape of an image
            indices = np.array([self._images - 1])
        return Batch(indices, np.zeros_like(indices))

    def close(self) -> None:
        """End the decode processes at once."""
        self._pool.close()
