"""The classes of single images, and which of their tokens were merged."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image, UnidentifiedImageError

import ltm
from ltm_platform.data.decode import STANDARD, decode_rgb
from ltm_platform.data.transforms import eval_transform
from ltm_platform.errors import UserError
from ltm_platform.storage.files import written_whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ltm_platform.compat.image_loader.pixels import PixelRule
    from ltm_platform.inference.trained_network import StoredNetwork
    from ltm_platform.models import Pixels

BATCH = 16
PICTURE_PIXELS = 448
"""Heatmaps of smaller images are drawn larger, so that there is something to see."""


@dataclass(frozen=True, slots=True)
class Guess:
    """A class and its probability in [0, 1]."""

    label: str
    probability: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """The likeliest classes of an image, the likeliest first."""

    image: str
    guesses: list[Guess]


def read_images(files: Sequence[str], rule: PixelRule = STANDARD) -> list[Image.Image]:
    """The images of all files in RGB, by the rule that the network was trained with.

    Raises:
        UserError: the first that is none, or cannot be read.
    """
    images = []
    for name in files:
        path = Path(name).expanduser()
        if path.is_dir():
            raise UserError(f"{name} is a folder: name image files, e.g. {name}/*.jpg")
        try:
            images.append(decode_rgb(path.read_bytes(), rule))
        except UnidentifiedImageError:
            raise UserError(f"{name} is not an image of a known format") from None
        except FileNotFoundError:
            raise UserError(f"{name} does not exist") from None
        except Exception as error:  # Pillow raises whatever a damaged file makes it trip over
            raise UserError(f"{name} cannot be read as an image: {error}") from None
    return images


def to_input(images: Sequence[Image.Image], pixels: Pixels) -> Tensor:
    """As validation sees them: [N, 3, H, W], the centre, resized and normalised."""
    transform = eval_transform(pixels.size, pixels.mean, pixels.std)
    return torch.stack([transform(image) for image in images])


@torch.inference_mode()
def predict(
    network: StoredNetwork, names: Sequence[str], images: Tensor, *, top: int
) -> list[Prediction]:
    """The ``top`` likeliest classes of each of ``images`` [N, 3, H, W], all if there are fewer."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = network.model.to(device)
    parts = [model(part.to(device)).float().softmax(1).cpu() for part in images.split(BATCH)]
    ranked = torch.cat(parts).topk(min(top, len(network.classes)))
    return [
        Prediction(
            name,
            [
                Guess(network.classes[label], value)
                for label, value in zip(labels.tolist(), values.tolist(), strict=True)
            ],
        )
        for name, labels, values in zip(names, ranked.indices, ranked.values, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Drawn:
    """A heatmap on disk."""

    path: Path
    sources: int
    """How many tokens of the image became the target token."""


def draw_heatmaps(
    network: StoredNetwork,
    names: Sequence[str],
    images: Tensor,
    folder: Path,
    *,
    target: tuple[int, int] | None = None,
) -> list[Drawn]:
    """A picture a prediction: which tokens were merged into the one at ``target``.

    target: row and column in the grid of tokens before the first merge; the image's centre if
    left out. Files are named after the images, and written whole.

    Raises:
        UserError: the network merges nothing, or the target is outside of the grid.
    """
    model = network.model.cpu()
    try:
        heats = [ltm.heatmap(model, image, target or _centre(model, image)) for image in images]
    except ValueError as error:
        raise UserError(f"--heatmap: {error}") from None
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for path, image, heat in zip(_paths(names, folder), images, heats, strict=True):
        picture = heat.picture(_shown(image, network.pixels))
        with written_whole(path) as part:
            Image.fromarray(picture.permute(1, 2, 0).numpy()).save(part)
        drawn.append(Drawn(path, heat.sources))
    return drawn


def _centre(model: torch.nn.Module, image: Tensor) -> tuple[int, int]:
    rows, columns = ltm.heatmap(model, image, (0, 0)).weights.shape
    return rows // 2, columns // 2


def _shown(image: Tensor, pixels: Pixels) -> Tensor:
    """What the network saw, [3, h, w] in [0, 1], enlarged by a whole factor if it is small."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (pixels.mean, pixels.std))
    factor = -(-PICTURE_PIXELS // pixels.size)
    seen = (image * std + mean).clamp(0, 1)
    return seen.repeat_interleave(factor, 1).repeat_interleave(factor, 2)


def _paths(names: Sequence[str], folder: Path) -> list[Path]:
    """``<image>_heatmap.png`` each; images of one name in several folders are numbered."""
    taken: set[str] = set()
    paths = []
    for name in names:
        stem = Path(name).stem
        candidates = (
            f"{stem}_heatmap.png" if n == 1 else f"{stem}_{n}_heatmap.png" for n in count(1)
        )
        free = next(one for one in candidates if one not in taken)
        taken.add(free)
        paths.append(folder / free)
    return paths
