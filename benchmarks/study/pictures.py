"""What LTM merges in pictures of the study, beside ToMe: as figure 1 of the paper shows it."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

import ltm
from benchmarks.study.cells import Cell, base
from benchmarks.study.runs import base_gmacs
from ltm.views.analysis import fates, groups, picture
from ltm_platform.inference.trained_network import load_network
from ltm_platform.models import input_pixels

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from benchmarks.study.runs import Place

COUNT = 8
_SCALE = 4
_GAP = 2


def draw(found: Mapping[Cell, dict[str, Any]], place: Place, data: str, file: Path) -> None:
    """A column a picture of the test split, each of another class: the picture, then what is left
    of it by LTM calibrated and fine-tuned and by ToMe off-the-shelf, with the first seed at 0.65.

    Merged tokens have their mean colour, dropped ones are dark.
    """
    tuned = [Cell(data, regime, "ltm", 0.65, 0) for regime in ("calibrated", "fine-tuned")]
    networks = [load_network(Path(place.weights(found[cell]))).model for cell in tuned]
    tome = ltm.patch(load_network(Path(place.weights(found[base(data, 0)]))).model, "tome")
    tome.set_compression(gmacs=0.65 * base_gmacs())
    networks.append(tome)
    rows = zip(*(_column(networks, image) for image in _images(place, data)), strict=True)
    sheet = torch.cat([torch.cat([*row], 2) for row in rows], 1)
    Image.fromarray(sheet.permute(1, 2, 0).numpy()).save(file)


def _images(place: Place, data: str) -> list[Tensor]:
    classes = sorted((place.home / "pictures" / data / "test" / "val").iterdir())
    files = [min(folder.iterdir()) for folder in islice(classes, COUNT)]
    return [
        torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float() / 255
        for file in files
    ]


def _column(networks: list[Any], image: Tensor) -> list[Tensor]:
    """[3, H, W] uint8 each: the picture, and what each network leaves of it."""
    drawn = [(image * 255).round().to(torch.uint8)]
    for network in networks:
        pixels = input_pixels(network)
        mean, std = (torch.tensor(values)[:, None, None] for values in (pixels.mean, pixels.std))
        found = ltm.merges(network, ((image - mean) / std)[None])
        drawn.append(picture(image, fates(found)[0], groups(found)[0], found[0].patches))
    return [_framed(one) for one in drawn]


def _framed(image: Tensor) -> Tensor:
    large = image.repeat_interleave(_SCALE, 1).repeat_interleave(_SCALE, 2)
    return torch.nn.functional.pad(large, (_GAP,) * 4, value=255)
