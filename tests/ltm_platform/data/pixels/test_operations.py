from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.data import auto_augment

from ltm_platform.data.pixels.operations import OPERATIONS, ByPillow, Pixels

SHAPED = {"fillcolor": (124, 116, 104), "resample": Image.Resampling.BICUBIC}
WITHIN_A_LEVEL = [
    *(("shear_x", factor) for factor in (0.27, -0.13, 0.0)),
    *(("shear_y", factor) for factor in (0.27, -0.13, 0.0)),
    *(("translate_x_rel", share) for share in (0.4, -0.233, 0.0)),
    *(("translate_y_rel", share) for share in (0.4, -0.233, 0.0)),
    ("translate_x_abs", 7.5),
    ("translate_y_abs", -100.0),
]
EQUAL = [
    ("auto_contrast",),
    ("equalize",),
    ("invert",),
    *(("posterize", bits) for bits in (1, 3, 7, 8)),
    *(("solarize", threshold) for threshold in (0, 1, 100, 255, 256)),
    *(("solarize_add", add) for add in (0, 50, 128)),
    *((name, f) for name in ("color", "contrast", "brightness") for f in (0.1, 0.73, 1.0, 1.9)),
    *(("sharpness", factor) for factor in (0.1, 1.0, 1.9)),
    ("desaturate", 0.7),
]


def pictures() -> list[Pixels]:
    """Photographs, noise, two levels, one level, and a few pixels."""
    draw = np.random.default_rng(0)
    photographs = [
        np.array(Image.fromarray(pixels).resize((61, 47))) for pixels in load_sample_images().images
    ]
    noise = draw.integers(0, 256, (33, 40, 3), dtype=np.uint8)
    return [
        *photographs,
        noise,
        noise // 128 * 100 + 30,
        np.full((8, 8, 3), 77, np.uint8),
        noise[:3, :4].copy(),
    ]


def differences(name: str, args: tuple[Any, ...]) -> list[int]:
    found = []
    for pixels in pictures():
        image = Image.fromarray(pixels)
        pillows = np.array(getattr(auto_augment, name)(image, *args, **SHAPED)).astype(int)
        ours = OPERATIONS[name](pixels.copy(), *args, **SHAPED)
        assert (ours.dtype, ours.shape) == (np.uint8, pixels.shape)
        assert ours.flags.c_contiguous
        found.append(int(np.abs(ours - pillows).max()))
    return found


@pytest.mark.parametrize(("name", "args"), [(name, args) for name, *args in EQUAL])
def test_operations_on_levels_are_pillows(name: str, args: list[Any]) -> None:
    assert max(differences(name, tuple(args))) == 0


@pytest.mark.parametrize(("name", "args"), [(name, args) for name, *args in WITHIN_A_LEVEL])
def test_shears_and_shifts_are_pillows_within_a_level(name: str, args: list[Any]) -> None:
    assert max(differences(name, tuple(args))) <= 1


def test_no_bits_are_black() -> None:
    assert not OPERATIONS["posterize"](pictures()[0], 0).any()


def test_every_operation_is_checked_here_and_is_one_of_timms() -> None:
    assert {name for name, *_ in (*EQUAL, *WITHIN_A_LEVEL)} == OPERATIONS.keys()
    known = {function.__name__ for function in auto_augment.NAME_TO_OP.values()}
    assert OPERATIONS.keys() <= known


def test_an_operation_that_stays_pillows_takes_arrays_and_travels() -> None:
    turn = pickle.loads(pickle.dumps(ByPillow(auto_augment.rotate)))
    pixels = pictures()[0]
    expected = auto_augment.rotate(Image.fromarray(pixels), 20, **SHAPED)
    assert np.array_equal(turn(pixels, 20, **SHAPED), np.array(expected))
