"""From a batch of indices to tensors; runs in the decode processes."""

from __future__ import annotations

import io
import random
import time
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from struct import pack
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch.utils.data import get_worker_info

from ltm_platform.compat.image_loader.pixels import PixelRule
from ltm_platform.compat.torch import empty_shared
from ltm_platform.data.bad_images import BadImage
from ltm_platform.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ltm_platform.data.image_set import ImageSet
    from ltm_platform.data.order import Batch, Order
    from ltm_platform.data.transforms import Transform
    from ltm_platform.job import Data

STANDARD = PixelRule()
"""The default of a job."""


_BLANK = (64, 64)


@dataclass(frozen=True)
class Failure:
    """Why a batch could not be read. A value, so that the sentence crosses processes whole."""

    error: UserError


Decoded = tuple[torch.Tensor, torch.Tensor]


@dataclass(slots=True)
class Spent:
    """Seconds that batches took their decode processes."""

    read_s: float = 0.0
    decode_s: float = 0.0
    """Augmenting included."""

    def add(self, other: Spent) -> None:
        self.read_s += other.read_s
        self.decode_s += other.decode_s


class DecodedBatch(NamedTuple):
    """Images [b, 3, H, W] float, labels [b] int64, and the bad images that were met."""

    images: torch.Tensor
    labels: torch.Tensor
    bad: tuple[BadImage, ...]
    spent: Spent


class Decoder:
    """Reads, decodes and transforms batches of one source.

    What is random in the transform depends on (seed, pass, index) alone: neither the process
    that decodes nor what it decoded before can change a sample.

    order: where an image that cannot be decoded gives its place to the next one of the pass; None
        puts a black one there.
    allowed: how many bad images to pass over at most.
    """

    def __init__(
        self,
        source: ImageSet,
        transform: Transform,
        seed: int,
        rule: PixelRule = STANDARD,
        *,
        order: Order | None = None,
        allowed: int = 0,
    ) -> None:
        self._source = source
        self._transform = transform
        self._seed = seed
        self._order = order
        self._allowed = allowed
        self._rule = rule

    def __getitem__(self, batch: Batch) -> DecodedBatch | Failure:
        """The images of ``batch``."""
        try:
            start = time.perf_counter()
            records = self._source.read(batch.indices)
            read = time.perf_counter()
            labels = [label for _, label in records]
            bad: list[BadImage] = []
            with _own_random_state():
                images = _gather(len(records), self._images(batch, records, labels, bad))
        except UserError as error:
            return Failure(error.with_traceback(None))
        spent = Spent(read - start, time.perf_counter() - read)
        return DecodedBatch(images, torch.tensor(labels), tuple(bad), spent)

    def _images(
        self,
        batch: Batch,
        records: list[tuple[bytes, int]],
        labels: list[int],
        bad: list[BadImage],
    ) -> Iterator[torch.Tensor]:
        """Every image in turn; a replaced one changes its label, too."""
        for row, (data, _) in enumerate(records):
            index, number = int(batch.indices[row]), int(batch.passes[row])
            image = self._image(data, row, index, bad)
            if image is None:
                image, labels[row] = self._replacement(row, index, number, labels[row], bad)
            _seed_everything(self._seed, number, index)
            yield self._transform(image)

    def _image(self, data: bytes, row: int, index: int, bad: list[BadImage]) -> Image.Image | None:
        try:
            return decode_rgb(data, self._rule)
        except MemoryError:
            raise  # no fault of the image
        except UnidentifiedImageError:
            why = "not a known image format"
        except Exception as error:  # Pillow raises whatever a damaged file makes it trip over
            why = str(error)
        bad.append(BadImage(row, index, f"{self._source.locate(index)} cannot be decoded: {why}"))
        return None

    def _replacement(
        self, row: int, index: int, number: int, label: int, bad: list[BadImage]
    ) -> tuple[Image.Image, int]:
        while self._order and len({one.image for one in bad}) <= self._allowed:
            index = self._order.image_after(index, number)
            ((data, replaced),) = self._source.read([index])
            image = self._image(data, row, index, bad)
            if image is not None:
                return image, replaced
        return Image.new("RGB", _BLANK), label


def _gather(count: int, images: Iterator[torch.Tensor]) -> torch.Tensor:
    """``count`` images of one shape as [count, 3, H, W].

    In a decode process they go straight into the shared memory in which they will travel, since
    torch would copy a whole batch there.
    """
    first = next(images)
    shape = (count, *first.shape)
    alone = get_worker_info() is None
    batch = first.new_empty(shape) if alone else empty_shared(first, shape)
    batch[0] = first
    for number, image in enumerate(images, start=1):
        batch[number] = image
    return batch


def pixel_rule(data: Data) -> PixelRule:
    """What networks of a job are shown of its images."""
    return PixelRule(data.exif, data.background)


def decode_rgb(data: bytes, rule: PixelRule = STANDARD) -> Image.Image:
    """The image in RGB, of several in one file the first.

    Raises:
        UnidentifiedImageError: not an image.
        Exception: damaged, or values of a range that is not known; the message says how.
    """
    return rule.rgb(Image.open(io.BytesIO(data)))


def _seed_everything(seed: int, number: int, index: int) -> None:
    """Seed the three global generators that timm and torchvision draw from."""
    digest = blake2b(pack("<qqq", seed, number, index), digest_size=8).digest()
    value = int.from_bytes(digest, "little")
    random.seed(value)
    np.random.seed(value & 0xFFFFFFFF)  # noqa: NPY002
    # Not torch.manual_seed, which also walks every accelerator.
    torch.default_generator.manual_seed(value)


@contextmanager
def _own_random_state() -> Iterator[None]:
    """Leave the generators as they were: decoding in the training process must not reseed it."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    torch_state = torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(torch_state)
