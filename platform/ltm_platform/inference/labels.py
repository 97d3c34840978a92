"""The classes that a trained network gives images, as their labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import timm
import torch

from ltm.errors import first_line
from ltm_platform.data.decode import STANDARD, decode_rgb, pixel_rule
from ltm_platform.errors import UserError
from ltm_platform.inference.predict import to_input
from ltm_platform.models import input_pixels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

    from ltm_platform.compat.image_loader.pixels import PixelRule
    from ltm_platform.inference.trained_network import StoredNetwork


def is_of_timm(name: str) -> bool:
    """Whether it names a network of timm's: a model, or a folder or hub as ``timm.create_model``
    takes them."""
    return name.startswith(("local-dir:", "hf-hub:")) or timm.is_model(name.partition(".")[0])


def labels_of_timm(name: str) -> NetworkLabels:
    """By a network of timm's with its published weights.

    Raises:
        UserError: they cannot be had.
    """
    try:
        model = timm.create_model(name, pretrained=True).eval()
    except Exception as error:  # whatever the hub's client raises
        raise UserError(f"the weights of {name} cannot be had: {first_line(error)}") from None
    names = model.pretrained_cfg.get("label_names") or map(str, range(model.num_classes))
    return NetworkLabels(name, model, tuple(names))


def labels_of_run(network: StoredNetwork) -> NetworkLabels:
    """By the network of a run, which sees images as the run's validation did."""
    name = f"{network.checkpoint.parent.name}/{network.checkpoint.name}"
    return NetworkLabels(name, network.model, network.classes, pixel_rule(network.job.data))


class NetworkLabels:
    """The likeliest class of each image, by a network in evaluation mode."""

    def __init__(
        self, name: str, model: Any, classes: tuple[str, ...], rule: PixelRule = STANDARD
    ) -> None:
        """``classes``: by the network's outputs. ``rule``: how images are decoded."""
        self.name, self.classes = name, classes
        self._pixels, self._rule = input_pixels(model), rule
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = model.to(self._device)

    @torch.inference_mode()
    def __call__(self, images: Sequence[bytes]) -> list[int | None]:
        """Encoded images; None for one that cannot be decoded."""
        labels: list[int | None] = [None] * len(images)
        decoded = [(place, image) for place, one in enumerate(images) if (image := self._open(one))]
        if decoded:
            places, pictures = zip(*decoded, strict=True)
            found = self._model(to_input(pictures, self._pixels).to(self._device)).argmax(1)
            for place, label in zip(places, found.tolist(), strict=True):
                labels[place] = label
        return labels

    def _open(self, image: bytes) -> Image.Image | None:
        try:
            return decode_rgb(image, self._rule)
        except Exception:  # Pillow raises whatever a damaged file makes it trip over
            return None
