"""Small networks whose heads and units may leave."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import ltm

TINY = "vit_nano_patch4_32"
SMALL = {TINY: 32, "mobilevit_xxs": 64, "efficientvit_b0": 64}


def create(backbone: str = TINY, method: str = "savit", **options: Any) -> Any:
    torch.manual_seed(0)
    size = SMALL.get(backbone)
    return ltm.create_model(backbone, method, num_classes=5, image_size=size, **options)


def images(size: int = 32, count: int = 2) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def score(model: Any, x: Tensor, labels: Tensor) -> None:
    """The scoring pass, as training makes it."""
    model.eval()
    model.method.before_scoring(model)
    for part in zip(x.split(4), labels.split(4), strict=True):
        model.method.score(model, F.cross_entropy(model(part[0]), part[1]))
    model.method.after_scoring(model)
