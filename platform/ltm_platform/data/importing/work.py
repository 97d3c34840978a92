"""One shard of an import: read, look at every image, write."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
from PIL import Image, UnidentifiedImageError

from ltm_platform.compat.image_loader.pixels import PixelRule
from ltm_platform.data.importing.originals import LARGEST_BYTES, BadImageError
from ltm_platform.data.sources.shards import Place, Record, ShardWriter

if TYPE_CHECKING:
    from ltm_platform.data.importing.originals import Entry, Reader
    from ltm_platform.data.importing.smaller import Smaller
    from ltm_platform.storage.path import StoragePath


@dataclass(frozen=True)
class Task:
    """What shard ``file`` is made of."""

    file: StoragePath
    place: Place
    entries: tuple[Entry, ...]
    classes: tuple[str, ...]
    reader: Reader
    smaller: Smaller | None = None


class Done(NamedTuple):
    """A shard that is there: entries it was made of, and how many of them were left out."""

    entries: int
    skipped: int


def write_shard(task: Task) -> Done:
    """Write one shard, whole or not at all. The same task gives the same bytes.

    Raises:
        OSError: it cannot be written.
    """
    skipped: list[tuple[str, str]] = []
    sink = pa.BufferOutputStream()
    writer = ShardWriter(sink, task.place, task.classes)
    for entry, data in zip(task.entries, task.reader.read(task.entries), strict=True):
        try:
            if isinstance(data, BadImageError):
                raise data
            check_image(data)
        except BadImageError as reason:
            skipped.append((entry.key, str(reason)))
        else:
            shown = task.smaller.apply(data) if task.smaller else None
            writer.add(Record(shown or data, entry.label, entry.key))
    writer.close(skipped, resized=task.smaller.as_dict() if task.smaller else None)
    task.file.write(sink.getvalue())
    return Done(len(task.entries), len(skipped))


def check_image(data: bytes) -> None:
    """Decode the image. `BadImageError` says what is wrong with it."""
    if not data:
        raise BadImageError("empty")
    if len(data) > LARGEST_BYTES:
        raise BadImageError(f"larger than {LARGEST_BYTES >> 20} MiB")
    try:
        with warnings.catch_warnings():
            # Odd metadata is no reason to complain, but a picture that fills the memory is.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            PixelRule().rgb(Image.open(io.BytesIO(data)))
    except UnidentifiedImageError:
        raise BadImageError("not a known image format") from None
    except Exception as error:  # Pillow raises whatever a damaged file makes it trip over
        raise BadImageError(f"cannot be decoded: {error}") from error
