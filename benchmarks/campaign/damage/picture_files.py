"""Pictures of every kind that people have, whole and damaged: their pixels are those that were
drawn, or a sentence says why they are not read."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from ltm_platform.data.decode import STANDARD, decoded
from ltm_platform.data.pixels.sample import UndecodableError
from ltm_platform.errors import UserError

from .changes import change
from .verdict import judge

if TYPE_CHECKING:
    import random
    from pathlib import Path

    import numpy.typing as npt

    from ..report import Outcome

    Pixels = npt.NDArray[np.uint8]

WIDTH, HEIGHT = 32, 24
LOSSY, INDEXED, EXACT = 8.0, 14.0, 2.0
"""Mean differences of a pixel that a format may make, of 255."""
_ORIENTATION = 0x0112


class Kind(NamedTuple):
    """A mode of Pillow in a format of file."""

    mode: str
    format: str
    allowed: float | None
    """None: what comes out is not compared."""
    turned: bool = False
    """Whether such files carry EXIF."""


KINDS = (
    Kind("RGB", "PNG", EXACT, turned=True),
    Kind("RGB", "JPEG", LOSSY, turned=True),
    Kind("RGB", "WEBP", LOSSY, turned=True),
    Kind("RGB", "TIFF", EXACT, turned=True),
    Kind("RGB", "BMP", EXACT),
    Kind("RGB", "PPM", EXACT),
    Kind("L", "PNG", EXACT, turned=True),
    Kind("L", "JPEG", LOSSY, turned=True),
    Kind("L", "TIFF", EXACT),
    Kind("L", "BMP", EXACT),
    Kind("P", "PNG", INDEXED),
    Kind("P", "GIF", INDEXED),
    Kind("P", "BMP", INDEXED),
    Kind("RGBA", "PNG", EXACT, turned=True),
    Kind("RGBA", "WEBP", LOSSY),
    Kind("RGBA", "TIFF", EXACT),
    Kind("LA", "PNG", EXACT),
    Kind("1", "PNG", None),
    Kind("1", "TIFF", None),
    Kind("CMYK", "JPEG", LOSSY, turned=True),
    Kind("CMYK", "TIFF", EXACT + 2),
    Kind("YCbCr", "JPEG", LOSSY),
    Kind("I;16", "PNG", EXACT, turned=True),
    Kind("I;16", "TIFF", EXACT),
    Kind("I;16B", "TIFF", EXACT),
    Kind("F", "TIFF", EXACT),
    Kind("I", "TIFF", None),
)


class PictureFiles:
    """Each case draws, writes and reads one picture."""

    def __init__(self, _: Path) -> None:
        pass

    def carry_out(self, draw: random.Random, outcome: Outcome) -> None:
        """Write a picture, damage it half of the times, read it."""
        kind = draw.choice(KINDS)
        drawn = _drawn(draw)
        data, shown, done = _written(draw, kind, drawn)
        damaged = draw.random() < 0.5
        if damaged:
            what, data = change(draw, data)
            done = f"{done}, {what}"
        outcome.size = len(data)
        outcome.story.append(done)
        outcome.counts[f"pictures: {kind.format}{', damaged' if damaged else ''}"] += 1
        pixels = judge(lambda: _read(data), outcome, f"a picture ({kind.format})")
        if damaged:
            return
        if pixels is None and kind.mode == "I":
            pass  # what is white in 32 bits cannot be known
        elif pixels is None:
            outcome.faults.append(f"a whole picture is refused: {done}.")
        elif pixels.shape != shown.shape:
            outcome.faults.append(f"{done} comes out as {pixels.shape}, not {shown.shape}.")
        elif kind.allowed is not None:
            difference = float(np.abs(pixels.astype(int) - shown.astype(int)).mean())
            if difference > kind.allowed:
                outcome.faults.append(f"{done} comes out with other pixels ({difference:.0f}).")


def _drawn(draw: random.Random) -> Pixels:
    """A smooth picture whose four corners differ, RGB."""
    down, across = np.mgrid[0 : 1 : HEIGHT * 1j, 0 : 1 : WIDTH * 1j]
    weights = np.stack(
        [(1 - down) * (1 - across), (1 - down) * across, down * (1 - across), down * across], -1
    )
    corners = np.array([[draw.randint(20, 235) for _ in range(3)] for _ in range(4)])
    corners[0] = 20  # dark where every other corner may not be
    return np.rint(weights @ corners).astype(np.uint8)


def _written(draw: random.Random, kind: Kind, drawn: Pixels) -> tuple[bytes, Pixels, str]:
    """The file, the RGB that is to be seen, and what it is in words."""
    image = Image.fromarray(drawn)
    grey = np.asarray(image.convert("L"))
    shown = drawn
    done = f"{kind.mode} in {kind.format}"
    if kind.mode in ("L", "LA", "I;16", "I;16B", "F", "I", "1"):
        shown = np.repeat(grey[..., None], 3, axis=2)
    if kind.mode.startswith("I;16"):
        order = ">u2" if kind.mode.endswith("B") else "<u2"
        wide = (grey.astype(np.uint16) * 257).astype(order)
        image = Image.frombytes(kind.mode, image.size, wide.tobytes())
    elif kind.mode == "F":
        image = Image.fromarray((grey / 255).astype(np.float32))
    elif kind.mode == "I":
        image = Image.fromarray(grey.astype(np.int32) * draw.choice([1, 1000, -1]))
    elif kind.mode in ("RGBA", "LA"):
        alpha = np.full(grey.shape, draw.choice([255, 0, 100]), np.uint8)
        image = image.convert("RGBA" if kind.mode == "RGBA" else "L")
        image.putalpha(Image.fromarray(alpha))
        share = alpha[..., None] / 255
        shown = np.rint(shown * share + 255 * (1 - share)).astype(np.uint8)
        done += f", alpha {alpha[0, 0]}"
    elif kind.mode == "P":
        image = image.quantize(64)
    else:
        image = image.convert(kind.mode)
    options: dict[str, object] = {"quality": 95} if kind.format in ("JPEG", "WEBP") else {}
    if kind.turned and draw.random() < 0.6:
        exif, number = Image.Exif(), draw.choice([*range(9), 77])
        exif[_ORIENTATION] = number
        if kind.format != "TIFF" and draw.random() < 0.1:
            options["exif"] = draw.randbytes(30)
            done += ", EXIF that is none"
        else:
            options["exif"] = exif.tobytes()
            shown = _turned(shown, number)
            done += f", orientation {number}"
    file = io.BytesIO()
    image.save(file, kind.format, **options)
    return file.getvalue(), shown, done


def _turned(pixels: Pixels, orientation: int) -> Pixels:
    """As a viewer shows it, by the table of the EXIF standard: the stored first row is the top,
    bottom, left or right side of what is seen."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _read(data: bytes) -> Pixels:
    """As the loader does."""
    try:
        return np.array(decoded(data, STANDARD))
    except UndecodableError as error:
        raise UserError(f"the picture cannot be decoded: {error}") from None
