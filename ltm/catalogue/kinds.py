"""Backbones by the names that people know: one of each kind, and what LTM makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltm.backbones import own_size
from ltm.catalogue.published import cost_of

if TYPE_CHECKING:
    from ltm.flops import Count


KINDS = {
    "ViT, DeiT, AugReg": "vit_small_patch16_224",
    "DeiT, distilled": "deit_small_distilled_patch16_224",
    "ViT hybrid": "vit_small_r26_s32_224",
    "DINOv2": "vit_small_patch14_dinov2",
    "DINOv3": "vit_small_patch16_dinov3",
    "EVA-02": "eva02_small_patch14_224",
    "PE": "vit_pe_core_base_patch16_224",
    "RoPE-ViT": "vit_small_patch16_rope_224",
    "Swin": "swin_tiny_patch4_window7_224",
    "Swin V2": "swinv2_tiny_window8_256",
    "MobileViT": "mobilevit_s",
    "MobileViT V2": "mobilevitv2_100",
    "EfficientViT": "efficientvit_b1",
}
"""A usual network of every kind."""


@dataclass(frozen=True)
class Kind:
    """A kind of backbones: one of them, its pixels, and its costs without merging and by LTM's
    default plan."""

    name: str
    backbone: str
    image_size: int
    base: Count
    merged: Count


def kinds() -> list[Kind]:
    """Every kind, counted without memory for weights."""
    found = []
    for name, backbone in KINDS.items():
        size = own_size(backbone)
        assert size is not None, backbone
        base, merged = (cost_of(backbone, method, size) for method in ("none", "ltm"))
        found.append(Kind(name, backbone, size, base, merged))
    return found
