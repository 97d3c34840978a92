"""Pictures of every kind come out as they look, and what cannot is refused by name."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ltm_platform.compat.image_loader.pixels import Background, PixelRule

TIMM = PixelRule(exif=False, background="hidden")
GREEN, RED, WHITE, BLACK = (0, 255, 0), (255, 0, 0), (255, 255, 255), (0, 0, 0)


def stored(image: Image.Image, form: str, **options: Any) -> Image.Image:
    """``image`` as it comes out of a file of this format."""
    file = io.BytesIO()
    image.save(file, form, **options)
    file.seek(0)
    return Image.open(file)


def pixels(image: Image.Image, rule: PixelRule = PixelRule()) -> list[tuple[int, ...]]:  # noqa: B008
    shown = rule.rgb(image)
    assert shown.mode == "RGB"
    return [tuple(pixel) for pixel in np.asarray(shown).reshape(-1, 3).tolist()]


def grey(*levels: int) -> list[tuple[int, ...]]:
    return [(level,) * 3 for level in levels]


def wide(*values: int) -> Image.Image:
    return Image.fromarray(np.array([values], dtype=np.uint16))


def png(depth: int, kind: int, values: list[int], transparent: list[int]) -> Image.Image:
    """A PNG of one row with 16-bit values, which Pillow cannot write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + checksum

    channels = {0: 1, 2: 3, 4: 2}[kind]
    header = struct.pack(">IIBBBBB", len(values) // channels, 1, depth, kind, 0, 0, 0)
    row = b"\0" + struct.pack(f">{len(values)}H", *values)
    chunks = chunk(b"IHDR", header)
    if transparent:
        chunks += chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent))
    chunks += chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    return Image.open(io.BytesIO(b"\x89PNG\r\n\x1a\n" + chunks))


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM", "JPEG2000"])
@pytest.mark.parametrize("rule", [PixelRule(), TIMM])
def test_16_bit_grey_is_scaled_and_not_white(form: str, rule: PixelRule) -> None:
    picture = stored(wide(0, 257, 32896, 40000, 65535), form)
    assert pixels(picture, rule) == grey(0, 1, 128, 156, 255)


def test_16_bit_grey_of_the_other_byte_order() -> None:
    big_endian = Image.frombytes("I;16B", (2, 1), struct.pack(">2H", 257 * 7, 65535))
    assert pixels(stored(big_endian, "TIFF")) == grey(7, 255)


def test_16_bit_grey_whose_zero_is_white() -> None:
    assert pixels(stored(wide(0, 257 * 7, 65535), "TIFF", tiffinfo={262: 0})) == grey(255, 248, 0)


def test_12_bit_grey_is_scaled_by_its_own_range() -> None:
    file = io.BytesIO()
    Image.new("L", (3, 1)).save(file, "TIFF")  # three bytes are two values of 12 bits
    data = bytearray(file.getvalue())
    where = Image.open(file).tag_v2[273][0]  # type: ignore[attr-defined]
    data[where : where + 3] = bytes([0xFF, 0xF8, 0x00])  # 4095 and 2048
    for tag, old, new in ((256, 3, 2), (258, 8, 12)):
        for kind in (3, 4):
            layout = "<HHI" + ("HH" if kind == 3 else "I")
            values = (old, 0) if kind == 3 else (old,)
            before = struct.pack(layout, tag, kind, 1, *values)
            after = struct.pack(layout, tag, kind, 1, new, *values[1:])
            data = data.replace(before, after)
    picture = Image.open(io.BytesIO(bytes(data)))
    assert picture.mode == "I;16"
    assert pixels(picture) == grey(255, 128)


def test_floats_from_0_to_1_are_scaled_and_not_black() -> None:
    picture = Image.fromarray(np.array([[0, 0.5, 1]], dtype=np.float32))
    assert pixels(stored(picture, "TIFF")) == grey(0, 128, 255)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0.0, 255.0], "floats from 0 to 255"),
        ([-0.5, 1.0], "floats from -0.5 to 1"),
        ([0.5, float("nan")], "floats from nan to nan"),
        ([0, 70000], "integers with a sign or of 32 bits from 0 to 70000"),
        ([-1000, 3000], "integers with a sign or of 32 bits from -1000 to 3000"),
    ],
)
def test_values_of_an_unknown_range_are_refused_by_name(values: list[float], kind: str) -> None:
    dtype = np.float32 if isinstance(values[0], float) else np.int32
    picture = stored(Image.fromarray(np.array([values], dtype=dtype)), "TIFF")
    with pytest.raises(ValueError, match=f"{kind}: allowed are 8 and 16 bits"):
        PixelRule().rgb(picture)


@pytest.mark.parametrize(
    ("mode", "form"),
    [
        ("1", "PNG"),
        ("L", "PNG"),
        ("P", "PNG"),
        ("P", "GIF"),
        ("CMYK", "JPEG"),
        ("CMYK", "TIFF"),
        ("YCbCr", "TIFF"),
        ("RGB", "WEBP"),
    ],
)
@pytest.mark.parametrize("rule", [PixelRule(), TIMM])
def test_opaque_pictures_of_other_modes_are_as_pillow_has_them(
    mode: str, form: str, rule: PixelRule
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    picture = stored(Image.fromarray(noise).convert(mode), form)
    np.testing.assert_array_equal(rule.rgb(picture), picture.convert("RGB"))


def test_1_bit_is_black_and_white() -> None:
    picture = Image.fromarray(np.array([[False, True]]))
    assert picture.mode == "1"
    assert pixels(stored(picture, "TIFF")) == grey(0, 255)


def half_transparent(kind: str) -> Image.Image:
    """An opaque green pixel beside a transparent one, which is red beneath; or their greys."""
    if kind == "RGBA":
        layers = np.array([[(*GREEN, 255), (*RED, 0)]], dtype=np.uint8)
        return stored(Image.fromarray(layers), "PNG")
    if kind == "RGB":
        return stored(Image.fromarray(np.array([[GREEN, RED]], np.uint8)), "PNG", transparency=RED)
    if kind in ("P", "GIF", "PA"):
        palette = Image.new("P", (2, 1))
        palette.putpalette([*GREEN, *RED])
        palette.putpixel((1, 0), 1)
        if kind == "PA":
            both = palette.convert("PA")
            both.putalpha(Image.fromarray(np.array([[255, 0]], np.uint8)))
            return both
        if kind == "GIF":
            return stored(palette, "GIF", transparency=1)
        return stored(palette, "PNG", transparency=b"\xff\x00")
    if kind == "LA":
        return stored(Image.fromarray(np.array([[(7, 255), (9, 0)]], np.uint8), "LA"), "PNG")
    if kind == "La":
        return Image.frombytes("La", (2, 1), bytes([7, 255, 0, 0]))
    if kind == "L":
        return stored(Image.fromarray(np.array([[7, 9]], np.uint8)), "PNG", transparency=9)
    if kind == "I;16":
        return png(16, 0, [7 * 257, 9 * 257], [9 * 257])
    if kind == "16-bit LA":
        return png(16, 4, [7 * 257, 65535, 9 * 257, 0], [])
    return png(16, 2, [0, 65535, 0, 65535, 0, 0], [65535, 0, 0])


COLOURS = ["RGBA", "RGB", "P", "GIF", "PA", "16-bit RGB"]
GREYS = ["LA", "L", "I;16", "16-bit LA"]


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
@pytest.mark.parametrize("kind", [*COLOURS, *GREYS, "La"])
def test_what_hides_beneath_transparent_pixels_is_not_seen(kind: str) -> None:
    first = GREEN if kind in COLOURS else (7, 7, 7)
    assert pixels(half_transparent(kind)) == [first, WHITE]
    assert pixels(half_transparent(kind), PixelRule(background="black")) == [first, BLACK]


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Palette images with Transparency:UserWarning")
@pytest.mark.parametrize("kind", COLOURS + GREYS)
def test_hidden_colours_are_those_that_timm_shows(kind: str) -> None:
    expected = [GREEN, RED] if kind in COLOURS else grey(7, 9)
    assert pixels(half_transparent(kind), TIMM) == expected
    if kind != "I;16":  # which comes out white there
        np.testing.assert_array_equal(
            TIMM.rgb(half_transparent(kind)), half_transparent(kind).convert("RGB")
        )


def test_half_transparent_is_half_white() -> None:
    picture = Image.new("RGBA", (1, 1), (255, 0, 0, 51))
    assert pixels(picture) == [(255, 204, 204)]
    assert pixels(picture, PixelRule(background="black")) == [(51, 0, 0)]


def turned(orientation: int, form: str) -> tuple[Image.Image, Image.Image]:
    """A picture upright, and as a camera stores it that was held otherwise."""
    blocks = np.array([[90, 160, 250], [0, 30, 60]])  # none of the eight is like another
    upright = Image.fromarray(np.kron(blocks, np.ones((16, 8))).astype(np.uint8)).convert("RGB")
    to_storage = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    lying = upright if to_storage is None else upright.transpose(to_storage)
    options: dict[str, Any] = {"quality": 100} if form in ("JPEG", "WEBP") else {}
    return upright, stored(lying, form, exif=exif, **options)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_phone_picture_is_turned_upright(orientation: int, form: str) -> None:
    upright, picture = turned(orientation, form)
    shown = PixelRule().rgb(picture)
    assert shown.size == upright.size
    np.testing.assert_allclose(np.asarray(shown, int), np.asarray(upright, int), atol=6)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_without_exif_a_picture_stays_as_it_is_stored(form: str) -> None:
    _, picture = turned(6, form)
    np.testing.assert_array_equal(TIMM.rgb(picture), picture.convert("RGB"))


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"junk" * 9])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF:UserWarning")
def test_damaged_exif_costs_no_picture(exif: bytes) -> None:
    picture = stored(Image.new("RGB", (4, 2), RED), "JPEG", exif=exif)
    assert PixelRule().rgb(picture).size == (4, 2)


@pytest.mark.parametrize("background", ["white", "black", "hidden"])
def test_a_plain_picture_is_not_copied(background: Background) -> None:
    picture = stored(Image.new("RGB", (4, 2), RED), "JPEG")
    assert PixelRule(background=background).rgb(picture) is picture
