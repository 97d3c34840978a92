"""Small networks of the families, and batches for them."""

from typing import Any

import torch

import ltm
from ltm.backbones import find_backbone

from ..networks import SIZES


def images(size: int, n: int = 2) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(n, 3, size, size)


def create(backbone: str, method: str = "ltm", **options: Any) -> Any:
    torch.manual_seed(0)
    return ltm.create_model(
        backbone, method, image_size=SIZES[backbone], num_classes=5, **options
    ).eval()


def with_method(backbone: str, factory: Any, plan: Any, *, size: int = 0, **options: Any) -> Any:
    """A network in evaluation mode with a method that stands in no registry."""
    torch.manual_seed(0)
    name, family = find_backbone(backbone)
    side = size or SIZES[backbone]
    base = family.build(name, (side, side), num_classes=5, **options)
    model: Any = family.from_timm(base)
    model.timm_name, model.image_size = name, (side, side)
    model.attach(factory, plan)
    return model.eval()
