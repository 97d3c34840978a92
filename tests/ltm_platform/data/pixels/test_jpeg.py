from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from ltm_platform.compat.image_loader.pixels import PixelRule
from ltm_platform.data.pixels import jpeg
from ltm_platform.data.pixels.jpeg import Box, Jpeg, open_jpeg

RULE = PixelRule()
NEAR = 4.0
"""Mean difference, in levels of 255, that libjpeg's quicker filters make at most."""


def photograph(width: int, height: int) -> Image.Image:
    return Image.fromarray(load_sample_images().images[0]).resize((width, height))


def encoded(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **{"quality": 92} | options)
    return file.getvalue()


def opened(data: bytes) -> Jpeg:
    found = open_jpeg(data, RULE)
    assert found is not None
    return found


def by_pillow(data: bytes, box: Box) -> Image.Image:
    top, left, height, width = box
    image = RULE.rgb(Image.open(io.BytesIO(data)))
    return image.crop((left, top, left + width, top + height))


def difference(ours: np.ndarray, theirs: Image.Image) -> float:
    return float(np.abs(ours.astype(int) - np.array(theirs)).mean())


@pytest.mark.parametrize(
    "options", [{}, {"subsampling": 0}, {"progressive": True}, {"restart_marker_rows": 1}]
)
@pytest.mark.parametrize("box", [Box(0, 0, 90, 120), Box(11, 7, 40, 50), Box(80, 100, 10, 20)])
def test_a_crop_is_that_of_the_whole_picture(options: dict[str, Any], box: Box) -> None:
    data = encoded(photograph(120, 90), **options)
    pixels = opened(data).crop(box, smallest=64)
    assert pixels.shape == (box.height, box.width, 3)
    assert difference(pixels, by_pillow(data, box)) < NEAR


def test_rows_below_the_crop_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []

    def noting(*args: Any, **more: Any) -> np.ndarray:
        decoded.append(decode(*args, **more))
        return decoded[-1]

    decode = jpeg.simplejpeg.decode_jpeg
    monkeypatch.setattr(jpeg.simplejpeg, "decode_jpeg", noting)
    opened(encoded(photograph(120, 900))).crop(Box(0, 0, 60, 120), smallest=60)
    assert [pixels.shape for pixels in decoded] == [(64, 120, 3)]


@pytest.mark.parametrize(("side", "shrink"), [(64, 1), (128, 2), (255, 2), (256, 4), (600, 8)])
def test_a_large_crop_is_decoded_smaller(side: int, shrink: int) -> None:
    data = encoded(photograph(700, 640))
    box = Box(16, 24, side, side)
    pixels = opened(data).crop(box, smallest=64)
    assert pixels.shape[0] == pytest.approx(side / shrink, abs=1)
    assert min(pixels.shape[:2]) >= 64
    theirs = by_pillow(data, box).resize(pixels.shape[1::-1], Image.Resampling.BOX)
    assert difference(pixels, theirs) < 2 * NEAR


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_crop_of_a_picture_that_lies_is_that_of_the_upright_one(orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    data = encoded(photograph(120, 90), exif=exif)
    found = opened(data)
    assert found.size == RULE.rgb(Image.open(io.BytesIO(data))).size
    box = Box(5, 30, 40, 50)
    assert difference(found.crop(box, smallest=64), by_pillow(data, box)) < NEAR
    stored = open_jpeg(data, PixelRule(exif=False))
    assert stored is not None
    assert stored.size == (120, 90)


def test_grey_is_ordinary() -> None:
    data = encoded(photograph(120, 90).convert("L"))
    box = Box(0, 0, 90, 120)
    assert difference(opened(data).crop(box, smallest=64), by_pillow(data, box)) < NEAR


def test_what_is_not_ordinary_is_left_to_pillow() -> None:
    image = photograph(120, 90)
    file = io.BytesIO()
    image.save(file, "PNG")
    for data in (file.getvalue(), b"", b"text", encoded(image.convert("CMYK"))):
        assert open_jpeg(data, RULE) is None
    assert open_jpeg(encoded(image, keep_rgb=True), RULE) is None


def test_what_is_too_large_to_be_safe_is_left_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(photograph(120, 90))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 120 * 90 - 1)
    assert open_jpeg(data, RULE) is None


@pytest.mark.parametrize("box", [Box(0, 0, 20, 20), Box(0, 0, 90, 120)])
def test_a_picture_that_was_cut_short_is_damaged_wherever_the_crop_is(box: Box) -> None:
    data = encoded(photograph(120, 90))
    with pytest.raises(ValueError, match=r"\S"):
        opened(data[:-200]).crop(box, smallest=64)
