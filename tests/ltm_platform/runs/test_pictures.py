"""Pictures of a trained network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

import ltm
from ltm_platform.data import open_dataset
from ltm_platform.models import input_pixels
from ltm_platform.runs.pictures import _most_confused, confusion_picture, heatmap_picture

if TYPE_CHECKING:
    from pathlib import Path


def test_the_most_confused_pairs_come_first() -> None:
    counts = torch.tensor([[9, 1, 0], [4, 5, 0], [0, 2, 7]])
    pairs = _most_confused(counts, ("cat", "dog", "fox"))
    assert pairs == ["dog taken for cat: 4", "fox taken for dog: 2", "cat taken for dog: 1"]


@pytest.mark.parametrize("classes", [1, 3, 100])
def test_a_confusion_matrix_of_any_size_is_drawn(classes: int) -> None:
    counts = torch.randint(5, (classes, classes))
    counts[0] = 0  # a class without images
    picture = confusion_picture(counts, [f"class {n}" for n in range(classes)])
    assert np.ptp(np.array(picture)) > 100


@pytest.mark.parametrize("method", ["ltm", "none"])
def test_heatmaps_of_the_first_images(method: str, ltm_home: Path) -> None:
    source = open_dataset("digits", cache=ltm_home / "cache", val_fraction=0.2).val
    model = ltm.create_model("vit_nano_patch4_32", method, num_classes=10).eval()
    picture = heatmap_picture(model, source, input_pixels(model))
    if method == "none":
        assert picture is None
    else:
        assert picture is not None
        assert picture.size == (6 * 136, 3 * 136)
