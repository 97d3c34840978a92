"""A picture in RGB, whatever its file holds: depth of the values, transparency, orientation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import ExifTags, Image

Background = Literal["white", "black", "hidden"]

_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # tags of TIFF
_WHITE_IS_ZERO = 0
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes an orientation of EXIF."""


@dataclass(frozen=True, slots=True)
class PixelRule:
    """What a network is shown of a picture.

    Values of more than 8 bits are scaled by the range of their type.

    exif: turn it as its EXIF orientation says.
    background: the colour that shows through transparent pixels; ``hidden`` is the one that the
        file holds beneath them.
    """

    exif: bool = True
    background: Background = "white"

    def rgb(self, image: Image.Image) -> Image.Image:
        """``image`` in RGB; it may be the same object.

        Raises:
            ValueError: the range of its values is not known.
            Exception: its file is damaged; the message says how.
        """
        image.load()
        plain = image.mode == "RGB" and "transparency" not in image.info
        shown = image if plain else self._opaque(_in_8_bits(image))
        turn = _UPRIGHT.get(orientation(image)) if self.exif else None
        return shown if turn is None else shown.transpose(turn)

    def _opaque(self, image: Image.Image) -> Image.Image:
        if not image.has_transparency_data:
            return image.convert("RGB")
        # Pillow takes premultiplied grey to no other mode, and warns of palettes on the way to RGB.
        layers = image.convert("LA" if image.mode == "La" else "RGBA").convert("RGBA")
        if self.background == "hidden":
            return layers.convert("RGB")
        canvas = Image.new("RGB", image.size, self.background)
        canvas.paste(layers, mask=layers)
        return canvas


def _in_8_bits(image: Image.Image) -> Image.Image:
    """Values of 16 bits and floats as 8 bits; anything else as it is."""
    largest = _largest_value(image)
    if largest is None:
        return _with_8_bit_transparency(image)
    values = np.asarray(image)
    grey = np.rint(values.astype(np.float32) * (255 / largest)).astype(np.uint8)
    if _tags(image).get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        grey = 255 - grey
    transparent = image.info.get("transparency")
    if transparent is None:
        return Image.fromarray(grey)
    alpha = np.where(values == transparent, 0, 255).astype(np.uint8)
    return Image.fromarray(np.stack((grey, alpha), axis=2), "LA")


def _largest_value(image: Image.Image) -> float | None:
    """What is white in a picture of more than 8 bits a value; None for any other.

    Raises:
        ValueError: it is not known.
    """
    if image.mode in _SIXTEEN_BITS:
        (bits,) = _tags(image).get(_BITS_PER_SAMPLE, (16,))
        return 2.0**bits - 1
    if image.mode == "I" and image.format in ("PNG", "PPM"):
        return 2.0**16 - 1
    if image.mode not in ("I", "F"):
        return None
    low, high = _extrema(image)
    if image.mode == "F" and low >= 0 and high <= 1:
        return 1.0
    kind = "integers with a sign or of 32 bits" if image.mode == "I" else "floats"
    raise ValueError(
        f"its values are {kind} from {low:g} to {high:g}: allowed are 8 and 16 bits without a "
        "sign, and floats from 0 to 1"
    )


def _extrema(image: Image.Image) -> tuple[float, float]:
    values = np.asarray(image)
    return float(values.min()), float(values.max())


def _tags(image: Image.Image) -> dict[int, Any]:
    return getattr(image, "tag_v2", {})


def _with_8_bit_transparency(image: Image.Image) -> Image.Image:
    """Of RGB with 16 bits Pillow keeps the upper 8, but not of the colour that is transparent."""
    colour = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(colour, tuple) and max(colour) > 255:
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in colour)
    return image


def orientation(image: Image.Image) -> int:
    """As EXIF has it: 1, upright, where it has none or another than 1 to 8."""
    try:
        turned = int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # whatever damaged EXIF makes Pillow trip over: the picture itself is there
        return 1
    return turned if turned in _UPRIGHT else 1
