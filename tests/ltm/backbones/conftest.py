"""The smallest network of every family, and their image sizes."""

from typing import Any

import torch

import ltm

SMALL = {
    "mobilevit_xxs": 64,
    "efficientvit_b0": 64,
    "swin_nano_patch2_window4_32": 32,
    "vit_nano_patch4_32": 32,
}


def images(size: int, n: int = 2) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(n, 3, size, size)


def create(backbone: str, method: str = "ltm", **options: Any) -> Any:
    torch.manual_seed(0)
    return ltm.create_model(
        backbone, method, image_size=SMALL[backbone], num_classes=5, **options
    ).eval()
