"""Which method runs on which family of backbones, and whether as its paper has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from ltm.backbones import find_backbone
from ltm.create import create_model
from ltm.errors import FieldError
from ltm.methods import grids, list_methods, reduces


@dataclass(frozen=True)
class Fit:
    """How a method runs on a backbone.

    rule: "published", or by a rule of "ours" where the paper says nothing, or it is "refused".
    why: the sentence of the refusal, else "".
    """

    method: str
    backbone: str
    rule: Literal["published", "ours", "refused"]
    why: str = ""


FAMILIES = {
    "plain ViT": ("vit_nano_patch4_32", 32),
    "rotary ViT": ("vit_small_patch16_dinov3", 64),
    "Swin": ("swin_nano_patch2_window4_32", 32),
    "Swin V2": ("swinv2_nano_window4_32", 32),
    "MobileViT": ("mobilevit_xxs", 64),
    "MobileViT V2": ("mobilevitv2_050", 64),
    "EfficientViT": ("efficientvit_b0", 64),
}
"""A small network of every family, and pixels that it takes."""


def fit(method: str, backbone: str, image_size: int | None = None) -> Fit:
    """How a method runs on a backbone, found by making the network, without memory for weights."""
    try:
        with torch.device("meta"):
            create_model(backbone, method, image_size=image_size, num_classes=2)
    except FieldError as refusal:
        if refusal.field != "method":
            raise
        return Fit(method, backbone, "refused", str(refusal))
    return Fit(method, backbone, rule(method, backbone))


def rule(method: str, backbone: str) -> Literal["published", "ours"]:
    """Whether a method that runs on a backbone does what its paper does there."""
    on_grid = find_backbone(backbone)[1].needs_grid
    silent = grids(method) == "ours" if reduces(method) == "tokens" else on_grid
    return "ours" if on_grid and silent else "published"


def all_fits() -> list[Fit]:
    """Every method on the smallest network of every family."""
    return [
        fit(method, backbone, pixels)
        for method in list_methods()[1:]
        for backbone, pixels in FAMILIES.values()
    ]
