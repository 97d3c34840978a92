"""From a batch of indices to pixels; runs in the decode processes."""

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
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError

from ltm_platform.compat.image_loader.pixels import PixelRule
from ltm_platform.data.bad_images import BadImage
from ltm_platform.data.pixels.sample import Change, Changes, UndecodableError, collect
from ltm_platform.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ltm_platform.data.image_set import ImageSet
    from ltm_platform.data.order import Batch, Order
    from ltm_platform.data.pixels.sample import Pipeline
    from ltm_platform.job import Data

STANDARD = PixelRule()
"""The default of a job."""


@dataclass(frozen=True)
class Failure:
    """Why a batch could not be read. A value, so that the sentence crosses processes whole."""

    error: UserError


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
    """Images [b, 3, H, W] uint8, channels last in memory, labels [b] int64, what is left to do to
    the images, the bad ones that were met, and the time that it all took."""

    images: torch.Tensor
    labels: torch.Tensor
    changes: Changes
    bad: tuple[BadImage, ...]
    spent: Spent


class Filled(NamedTuple):
    """A `DecodedBatch` but for its images."""

    labels: npt.NDArray[np.int64]
    changes: Changes
    bad: tuple[BadImage, ...]
    spent: Spent

    def of(self, images: torch.Tensor) -> DecodedBatch:
        """With ``images`` [b, H, W, 3]."""
        pixels, labels = images.permute(0, 3, 1, 2), torch.from_numpy(self.labels)
        return DecodedBatch(pixels, labels, self.changes, self.bad, self.spent)


class Decoder:
    """Reads, decodes and transforms batches of one source.

    What is random in the pipeline depends on (seed, pass, index) alone: neither the process
    that decodes nor what it decoded before can change a sample.

    order: where an image that cannot be decoded gives its place to the next one of the pass; None
        puts a black one there.
    allowed: how many bad images to pass over at most.
    """

    def __init__(
        self,
        source: ImageSet,
        pipeline: Pipeline,
        seed: int,
        rule: PixelRule = STANDARD,
        *,
        order: Order | None = None,
        allowed: int = 0,
    ) -> None:
        self._source = source
        self._pipeline = pipeline
        self._seed = seed
        self._order = order
        self._allowed = allowed
        self._rule = rule

    @property
    def size(self) -> int:
        """Height and width of the images."""
        return self._pipeline.size

    def __getitem__(self, batch: Batch) -> DecodedBatch | Failure:
        """The images of ``batch``."""
        images = torch.empty(len(batch.indices), self.size, self.size, 3, dtype=torch.uint8)
        decoded = self.fill(images, batch)
        return decoded if isinstance(decoded, Failure) else decoded.of(images)

    def fill(self, images: torch.Tensor, batch: Batch) -> Filled | Failure:
        """Decode ``batch`` into ``images``, the first of [n, size, size, 3] uint8."""
        try:
            start = time.perf_counter()
            records = self._source.read(batch.indices)
            read = time.perf_counter()
            labels = [label for _, label in records]
            bad: list[BadImage] = []
            with _own_random_state():
                changes = self._fill(images, batch, records, labels, bad)
        except UserError as error:
            return Failure(error.with_traceback(None))
        spent = Spent(read - start, time.perf_counter() - read)
        return Filled(np.array(labels, dtype=np.int64), collect(changes), tuple(bad), spent)

    def _fill(
        self,
        images: torch.Tensor,
        batch: Batch,
        records: list[tuple[bytes, int]],
        labels: list[int],
        bad: list[BadImage],
    ) -> list[Change]:
        """Every image in turn; a replaced one changes its label, too."""
        changes = []
        for row, (data, _) in enumerate(records):
            index, number = int(batch.indices[row]), int(batch.passes[row])
            key, out = (self._seed, number, index), images[row]
            change = self._show(data, key, out, row, index, bad)
            if change is None:
                change, labels[row] = self._replace(key, out, row, labels[row], bad)
            changes.append(change)
        return changes

    def _show(
        self,
        data: bytes,
        key: tuple[int, int, int],
        out: torch.Tensor,
        row: int,
        index: int,
        bad: list[BadImage],
    ) -> Change | None:
        try:
            return self._pipeline(data, self._rule, key, out)
        except UndecodableError as error:
            where = self._source.locate(index)
            bad.append(BadImage(row, index, f"{where} cannot be decoded: {error}"))
            return None

    def _replace(
        self,
        key: tuple[int, int, int],
        out: torch.Tensor,
        row: int,
        label: int,
        bad: list[BadImage],
    ) -> tuple[Change, int]:
        _, number, index = key
        while self._order and len({one.image for one in bad}) <= self._allowed:
            index = self._order.image_after(index, number)
            ((data, replaced),) = self._source.read([index])
            change = self._show(data, key, out, row, index, bad)
            if change is not None:
                return change, replaced
        out.zero_()
        return Change(), label


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


def decoded(data: bytes, rule: PixelRule) -> Image.Image:
    """As `decode_rgb`.

    Raises:
        UndecodableError: that is no image, or it is damaged.
    """
    try:
        return decode_rgb(data, rule)
    except MemoryError:
        raise  # no fault of the image
    except UnidentifiedImageError:
        raise UndecodableError("not a known image format") from None
    except Exception as error:  # Pillow raises whatever a damaged file makes it trip over
        raise UndecodableError(str(error)) from error


def seed_everything(seed: int, number: int, index: int) -> None:
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
