"""The pyfunc side of a logged model: images in, class probabilities out."""

from __future__ import annotations

import base64
import binascii
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from .pixels import PixelRule

BATCH = 64


class ImageClassifier:
    """A network with the way from an image to its input.

    network: normalised images [N, 3, size, size] -> logits [N, classes].
    inputs: ``size`` and ``resize`` in pixels, ``mean`` and ``std`` of the channels, ``classes``,
        and of the `PixelRule` ``exif`` and ``background``.
    """

    def __init__(self, network: torch.nn.Module, inputs: dict[str, Any], device: str) -> None:
        self._network = network.eval().to(device)
        self._inputs = inputs
        self._rule = PixelRule(inputs["exif"], inputs["background"])
        self._device = device

    @torch.inference_mode()
    def predict(self, data: Any, params: dict[str, Any] | None = None) -> pd.DataFrame:  # noqa: ARG002
        """One row an image, one column a class: probabilities.

        data: one image, a list of them, an array [N, height, width, 3] or a frame of one column.
        An image is the bytes of a file (PNG, JPEG, ...), the same in base64, a path, an array
        uint8 [height, width] or [height, width, 3], or a Pillow image.

        Raises:
            ValueError: something is no image.
        """
        pixels = [self._prepare(_decode(image)) for image in _listed(data)]
        rows = [torch.empty(0, len(self._inputs["classes"]))]
        for start in range(0, len(pixels), BATCH):
            batch = torch.stack(pixels[start : start + BATCH]).to(self._device)
            rows.append(self._network(batch).float().softmax(1).cpu())
        return pd.DataFrame(torch.cat(rows).numpy(), columns=self._inputs["classes"])

    def _prepare(self, image: Image.Image) -> torch.Tensor:
        """As in validation: in RGB, the shorter side resized, the centre cut out, normalised."""
        size, resize = self._inputs["size"], self._inputs["resize"]
        pixels = torch.from_numpy(np.array(self._rule.rgb(image))).permute(2, 0, 1)
        pixels = F.resize(pixels, [resize], interpolation=InterpolationMode.BICUBIC)
        values = F.center_crop(pixels, [size, size]).float().div(255)
        mean, std = (torch.tensor(self._inputs[key])[:, None, None] for key in ("mean", "std"))
        return values.sub(mean).div(std)


def _listed(data: Any) -> list[Any]:
    if isinstance(data, pd.DataFrame):
        if data.shape[1] != 1:
            raise ValueError(f"a frame of images has one column, not {data.shape[1]}")
        return data.iloc[:, 0].tolist()
    if isinstance(data, np.ndarray) and data.ndim == 4:
        return list(data)
    if isinstance(data, list | tuple | pd.Series):
        return list(data)
    return [data]


def _decode(image: Any) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, list):  # an array that came as JSON
        image = np.array(image, dtype=np.uint8)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or not (image.ndim == 2 or image.shape[2:] == (3,)):
            raise ValueError(
                f"an image is uint8 [height, width] or [height, width, 3], "
                f"not {image.dtype} {list(image.shape)}"
            )
        return Image.fromarray(image)
    try:
        return Image.open(io.BytesIO(image) if isinstance(image, bytes) else _opened(image))
    except (OSError, TypeError, binascii.Error) as error:
        raise ValueError(f"{str(image)[:80]!r} is no image: {error}") from None


def _opened(text: str | Path) -> Path | io.BytesIO:
    if os.path.isfile(text):  # unlike Path's, it takes text too long for a path
        return Path(text)
    return io.BytesIO(base64.b64decode(str(text), validate=True))


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> ImageClassifier:
    """What MLflow calls; ``path`` is the folder ``data`` in the model's own."""
    import mlflow.pytorch

    device = (model_config or {}).get("device") or ("cuda" if torch.cuda.is_available() else "cpu")
    inputs = json.loads((Path(path) / "inputs.json").read_text())
    network = mlflow.pytorch.load_model(str(Path(path).parent))
    return ImageClassifier(network, inputs, device)
