"""The smallest network of every kind of backbone: one table for all tests that are of all."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import timm
import torch
from torch import Tensor

import ltm

if TYPE_CHECKING:
    from collections.abc import Mapping


class Network(NamedTuple):
    """size: pixels of its images. options: of timm's model, which make it small."""

    size: int
    options: Mapping[str, Any] = MappingProxyType({})


_VIT = {"depth": 2, "embed_dim": 64, "num_heads": 2}

NETWORKS = {
    "vit_nano_patch4_32": Network(32),
    "swin_nano_patch2_window4_32": Network(32),
    "mobilevit_xxs": Network(64),
    "efficientvit_b0": Network(64),
    "swinv2_nano_window4_32": Network(32),
    "mobilevitv2_050": Network(64),
    "deit_tiny_distilled_patch16_224": Network(64, _VIT),
    "vit_small_resnet50d_s16_224": Network(64, {"depth": 2}),
    "vit_small_patch16_dinov3": Network(64, _VIT),
    "eva02_tiny_patch14_224": Network(56, _VIT),
    "vit_pe_core_tiny_patch16_384": Network(64, _VIT),
    "vit_small_patch16_rope_mixed_224": Network(64, _VIT),
}

SIZES = {name: NETWORKS[name].size for name in [*NETWORKS][:4]}
"""Of one of each family that the published table has: those of the tests of all methods."""


def plain(backbone: str) -> Any:
    """timm's own network, with weights that are no longer alike where timm begins with 0 or 1."""
    size, options = NETWORKS[backbone]
    torch.manual_seed(0)
    if options or backbone.startswith(("vit", "swin")):
        options = {**options, "img_size": size, "drop_path_rate": 0.0}
    model = timm.create_model(backbone, num_classes=5, **options)
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return model.eval()


def create(backbone: str, method: str = "ltm", **options: Any) -> Any:
    """With a method, in evaluation mode."""
    return ltm.patch(plain(backbone), method, image_size=NETWORKS[backbone].size, **options)


def images(backbone: str, n: int = 2) -> Tensor:
    torch.manual_seed(1)
    size = NETWORKS[backbone].size
    return torch.randn(n, 3, size, size)
