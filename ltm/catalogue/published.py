"""The published table (arXiv 2407.15219, ImageNet-1k from scratch), and ours beside it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ltm.create import create_model
from ltm.flops import Count, count


@dataclass(frozen=True)
class Published:
    """One row of the paper's table.

    gmacs and base_gmacs: in 1e9, with the products of attention where `with_attention`; the table
    mixes both conventions. params_m: in 1e6. base_top1 and top1: in percent.
    """

    backbone: str
    image_size: int
    params_m: float
    base_gmacs: float
    gmacs: float
    with_attention: bool
    base_top1: float
    top1: float

    def ours(self, cost: Count) -> float:
        """The figure of a cost that the paper's `gmacs` compares to."""
        return cost.gmacs if self.with_attention else cost.gmacs_no_attention_matmul


PUBLISHED = (
    Published("mobilevit_xs", 224, 2.3, 0.7, 0.52, False, 74.8, 75.8),
    Published("mobilevit_s", 224, 5.6, 1.4, 1.17, False, 78.4, 79.7),
    Published("efficientvit_b1", 224, 9.1, 0.52, 0.44, True, 79.4, 80.2),
    Published("efficientvit_b1", 288, 9.1, 0.86, 0.70, True, 80.4, 81.0),
    Published("vit_small_patch16_224", 224, 22.1, 4.3, 3.7, True, 81.2, 81.8),
    Published("vit_base_patch16_224", 224, 86.5, 17.6, 12.9, True, 83.7, 83.9),
    Published("swin_tiny_patch4_window7_224", 224, 29.0, 4.5, 3.8, True, 81.3, 81.8),
    Published("swin_base_patch4_window7_224", 224, 88.0, 15.4, 12.0, True, 83.5, 83.8),
)


def cost_of(
    backbone: str, method: str = "ltm", image_size: int | None = None, *, num_classes: int = 1000
) -> Count:
    """What a network costs by its default plan, without memory for its weights."""
    with torch.device("meta"):
        model = create_model(backbone, method, image_size=image_size, num_classes=num_classes)
        return count(model, image_size)


def table() -> list[tuple[Published, Count, Count]]:
    """Every published row, the cost of our base model, and that of our merged one."""
    return [
        (
            row,
            cost_of(row.backbone, "none", row.image_size),
            cost_of(row.backbone, "ltm", row.image_size),
        )
        for row in PUBLISHED
    ]
