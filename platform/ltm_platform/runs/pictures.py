"""Pictures of a trained network: what it confuses, and which tokens it merges."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch.nn import functional as F

import ltm
from ltm_platform.data.decode import STANDARD, decode_rgb
from ltm_platform.data.transforms import eval_transform
from ltm_platform.storage.files import save_figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ltm_platform.compat.image_loader.pixels import PixelRule
    from ltm_platform.data import ImageSet
    from ltm_platform.models import Pixels

NAMED_CLASSES = 30  # more names and numbers would not be legible
LISTED_PAIRS = 15
HEATMAP_IMAGES = 6
TARGETS = ((0.5, 0.5), (0.25, 0.25))
"""Of the tokens whose sources are drawn: shares of the height and of the width."""
_TILE = 128
_GAP = 4


def confusion_picture(counts: Tensor, classes: Sequence[str]) -> Image.Image:
    """A confusion matrix [true, predicted], beside it the pairs that are confused most often."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    matrix, pairs = figure.subplots(1, 2, width_ratios=(5, 2))
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    matrix.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    matrix.set(xlabel="predicted", ylabel="true")
    total, right = int(counts.sum()), int(counts.trace())
    matrix.set_title(f"{total:,} validation images, {total - right:,} of them wrong")
    if len(classes) <= NAMED_CLASSES:
        matrix.set_xticks(range(len(classes)), classes, rotation=90)
        matrix.set_yticks(range(len(classes)), classes)
        for row, column in counts.nonzero().tolist():
            dark = shares[row, column] > 0.5
            matrix.text(
                column,
                row,
                str(int(counts[row, column])),
                ha="center",
                va="center",
                fontsize=8,
                color="white" if dark else "black",
            )
    pairs.axis("off")
    lines = ["most often wrong", "", *_most_confused(counts, classes)]
    pairs.text(0, 1, "\n".join(lines), va="top", fontsize=9, transform=pairs.transAxes)
    buffer = io.BytesIO()
    save_figure(figure, buffer, format="png", dpi=80)
    return Image.open(buffer).convert("RGB")


def _most_confused(counts: Tensor, classes: Sequence[str]) -> list[str]:
    wrong = counts.clone().fill_diagonal_(0).flatten()
    many, cells = wrong.topk(min(LISTED_PAIRS, wrong.numel()))
    rows, columns = cells // len(classes), cells % len(classes)
    return [
        f"{classes[row]} taken for {classes[column]}: {n}"
        for n, row, column in zip(many.tolist(), rows.tolist(), columns.tolist(), strict=True)
        if n
    ]


def heatmap_picture(
    model: Any, source: ImageSet, pixels: Pixels, rule: PixelRule = STANDARD
) -> Image.Image | None:
    """The first image of each of some classes, and below it `ltm.heatmap` of some targets.

    None for a network that merges nothing, or where none of them can be decoded.
    """
    if not getattr(model, "sites", {}):
        return None
    transform = eval_transform(pixels.size, pixels.mean, pixels.std)
    mean, std = (torch.tensor(values)[:, None, None] for values in (pixels.mean, pixels.std))
    columns = []
    targets: list[tuple[int, int]] = []
    for data, _ in source.read(_first_of_classes(source)):
        try:
            image = transform(decode_rgb(data, rule))
        except Exception:  # Pillow raises whatever a damaged file makes it trip over
            continue  # training has left it out, too, and named it
        plain = (image * std + mean).clamp(0, 1)
        tiles = [(plain * 255).round().to(torch.uint8)]
        if not targets:
            rows, across = ltm.heatmap(model, image, (0, 0)).weights.shape
            targets = [(int(down * rows), int(right * across)) for down, right in TARGETS]
        tiles += [ltm.heatmap(model, image, target).picture(plain) for target in targets]
        columns.append(torch.cat([_framed(tile) for tile in tiles], dim=1))
    if not columns:
        return None
    return Image.fromarray(torch.cat(columns, dim=2).permute(1, 2, 0).numpy())


def _first_of_classes(source: ImageSet) -> list[int]:
    """The same images for every run on the same data."""
    firsts = [
        int((source.labels == label).argmax())
        for label in range(len(source.classes))
        if (source.labels == label).any()
    ]
    return firsts[:HEATMAP_IMAGES]


def _framed(tile: Tensor) -> Tensor:
    """[3, size, size] of small images enlarged, with a white edge."""
    scale = max(1, _TILE // tile.shape[-1])
    enlarged = F.interpolate(tile[None].float(), scale_factor=scale, mode="nearest")[0]
    return F.pad(enlarged, (_GAP,) * 4, value=255).to(torch.uint8)
