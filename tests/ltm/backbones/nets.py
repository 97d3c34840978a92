"""Two small ViTs, with and without a class token, whose attention is far from uniform."""

from __future__ import annotations

from typing import Any

import torch

from .conftest import with_method

CLASSY = "vit_tiny_patch16_224"  # has a class token; at 64 pixels, 16 tokens
POOLED = "vit_nano_patch4_32"  # has none; 64 tokens


def classy(factory: Any, plan: Any, **options: Any) -> Any:
    model = with_method(CLASSY, factory, plan, size=64, depth=4, **options)
    for name, parameter in model.named_parameters():  # so that attention is far from uniform
        if "qkv" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def pooled(factory: Any, plan: Any) -> Any:
    model = with_method(POOLED, factory, plan)
    for name, parameter in model.named_parameters():
        if "qkv" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model
