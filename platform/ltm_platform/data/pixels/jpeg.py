"""The part of a JPEG that a crop needs, by libjpeg-turbo.

Decoding is scaled by 1/2, 1/4 or 1/8 where the crop has pixels to spare, and ends below it.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from ltm_platform.compat.image_loader.pixels import orientation

if TYPE_CHECKING:
    from ltm_platform.compat.image_loader.pixels import PixelRule

_ORDINARY = ("YCbCr", "Gray")
_SHRINKS = (8, 4, 2)
_END = b"\xff\xd9"
_APP1 = 0xE1
"""Marks EXIF and XMP, of which either may say how the picture is to be turned."""
_SEQUENTIAL, _SCAN = (0xC0, 0xC1), 0xDA
_OTHER_FRAMES = {0xC2, 0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)}

Pixels = npt.NDArray[np.uint8]


class Box(NamedTuple):
    """A part of an image in pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class Jpeg:
    """An ordinary one: 8 bits, grey or YCbCr.

    height, width: as it is stored.
    orientation: of EXIF, 1 to 8.
    """

    data: bytes
    height: int
    width: int
    header: _Header
    orientation: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as it is shown."""
        if self.orientation >= 5:
            return self.height, self.width
        return self.width, self.height

    def crop(self, box: Box, smallest: int) -> Pixels:
        """What is in ``box`` of the image as it is shown, [h, w, 3].

        Both sides have ``smallest`` pixels if those of ``box`` have. Beyond that h and w may be
        smaller than the box by a power of two; its sides are then rounded to whole pixels.

        Raises:
            ValueError: it is damaged, or unusual in a way that Pillow may know.
        """
        top, left, height, width = self._stored(box)
        bottom, right = top + height, left + width
        shrink = next((s for s in _SHRINKS if min(height, width) >= s * smallest), 1)
        data, rows = self._down_to(bottom)
        pixels = simplejpeg.decode_jpeg(
            data,
            "RGB",
            fastdct=True,
            fastupsample=True,
            min_height=-(-rows // shrink),
            min_width=-(-self.width // shrink),
            # Rows were left out, or else a warning is one of damage.
            strict=data is self.data,
        )
        part = pixels[
            top // shrink : -(-bottom // shrink),
            left // shrink : -(-right // shrink),
        ]
        return _upright(part, self.orientation)

    def _down_to(self, bottom: int) -> tuple[bytes, int]:
        """The file with a header of fewer rows, if ``bottom`` are enough, and how many it has then.

        libjpeg stops after them. A file without an end stays whole: decoding shows whether it is
        damaged.
        """
        at, unit = self.header.height_at, self.header.unit
        if at is None or not self.data.endswith(_END):
            return self.data, self.height
        rows = -(-bottom // unit) * unit
        if rows >= self.height:
            return self.data, self.height
        return self.data[:at] + rows.to_bytes(2, "big") + self.data[at + 2 :], rows

    def _stored(self, box: Box) -> Box:
        top, left, height, width = box
        shown_width, shown_height = self.size
        if self.orientation in (2, 3, 6, 7):
            left = shown_width - left - width
        if self.orientation in (3, 4, 7, 8):
            top = shown_height - top - height
        if self.orientation >= 5:
            return Box(left, top, width, height)
        return Box(top, left, height, width)


def open_jpeg(data: bytes, rule: PixelRule) -> Jpeg | None:
    """The JPEG in ``data``, or None if it is anything else or anything but ordinary."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    bomb = Image.MAX_IMAGE_PIXELS
    if colours not in _ORDINARY or (bomb is not None and height * width > bomb):
        return None
    header = _header(data)
    turned = 1
    if rule.exif and header.has_metadata:
        try:
            turned = orientation(Image.open(io.BytesIO(data)))
        except Exception:  # whatever Pillow trips over, it shall say itself
            return None
    return Jpeg(data, height, width, header, turned)


def _upright(pixels: Pixels, turned: int) -> Pixels:
    if turned >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if turned in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if turned in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


class _Header(NamedTuple):
    """What is before the pixels.

    height_at: where the height is written, if one scan after it has all pixels in their order.
    unit: rows that are coded together.
    """

    has_metadata: bool
    height_at: int | None = None
    unit: int = 0


def _header(data: bytes) -> _Header:
    place, height_at, unit, components, has_metadata = 2, None, 0, 0, False
    while place + 10 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == _APP1:
            has_metadata = True
        elif marker in _SEQUENTIAL:
            components = data[place + 9]
            factors = data[place + 11 : place + 10 + 3 * components : 3]
            height_at, unit = place + 5, 8 * max((factor & 15 for factor in factors), default=1)
        elif marker in _OTHER_FRAMES:
            break
        elif marker == _SCAN:
            if data[place + 4] == components:
                return _Header(has_metadata, height_at, unit)
            break
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return _Header(has_metadata)
