from __future__ import annotations

import io
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from ltm_platform.data.sources.digits import Digits
from ltm_platform.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from ltm_platform.data import Dataset


def test_holds_every_scan_unchanged(digits: Dataset) -> None:
    scans, labels = load_digits(return_X_y=True)
    seen = []
    for source in (digits.train, digits.val):
        for index, (data, label) in enumerate(source.read(range(len(source)))):
            number = int(source.locate(index).split("'")[1].removeprefix("digits/"))
            pixels = np.asarray(Image.open(io.BytesIO(data)))
            assert label == labels[number]
            assert np.array_equal(np.rint(pixels / 255 * 16).ravel(), scans[number])
            seen.append(number)
    assert sorted(seen) == list(range(1797))


def test_parts_are_stratified(digits: Dataset) -> None:
    assert len(digits.val) == 359
    shares = np.bincount(digits.val.labels) / np.bincount(digits.train.labels)
    assert np.allclose(shares, 0.25, atol=0.01)


def test_are_written_once(tmp_path: Path) -> None:
    Digits("digits", tmp_path).open()
    files = sorted(tmp_path.rglob("*.parquet"))
    before = [file.stat().st_mtime_ns for file in files]
    Digits("digits", tmp_path).open()
    assert [file.stat().st_mtime_ns for file in files] == before


def test_a_part_lost_from_the_cache_is_written_again(tmp_path: Path) -> None:
    _, val = Digits("digits", tmp_path).open()
    shutil.rmtree(val.folder.path)
    assert Digits("digits", tmp_path).open()[1].checksum == val.checksum


def test_a_damaged_copy_of_the_digits_is_told_with_what_to_do(tmp_path: Path) -> None:
    digits = Digits("digits", tmp_path)
    digits.open()
    (file,) = tmp_path.rglob("val/*.parquet")
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(UserError) as caught:
        digits.open()
    folder = file.parents[1]
    assert str(caught.value) == (
        f"{file} is damaged: it does not end as a Parquet file does. "
        f"Remove {folder}, and it is written anew."
    )
