"""Every private or unstable name of timm and torch that we use, and no other module uses one.

`tests/ltm/test_compat.py` tests for each what we rely on.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models._features import FeatureGetterNet, feature_take_indices
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

__all__ = [
    "EMBEDDING_BAGS",
    "FUSED_ATTENTION",
    "FUSED_ATTENTION_ON_CPU",
    "FeatureGetterNet",
    "FlopCounterMode",
    "bag_weight_gradient",
    "embedded_patches",
    "feature_take_indices",
    "sdpa_flop_count",
    "window_sizes",
]

_aten: Any = torch.ops.aten

FUSED_ATTENTION_ON_CPU = _aten._scaled_dot_product_flash_attention_for_cpu
FUSED_ATTENTION = (
    FUSED_ATTENTION_ON_CPU,
    _aten._scaled_dot_product_flash_attention,
    _aten._scaled_dot_product_efficient_attention,
    _aten._scaled_dot_product_cudnn_attention,
)
EMBEDDING_BAGS = (_aten._embedding_bag_forward_only, _aten._embedding_bag)


def embedded_patches(model: Any, images: Tensor) -> Tensor:
    """What the first block of timm's VisionTransformer takes: [B, T, D] of images [B, 3, h, w]."""
    x = model._pos_embed(model.patch_embed(images))
    tokens: Tensor = model.norm_pre(model.patch_drop(x))
    return tokens


def window_sizes(model: Any) -> Any:
    """What timm's SwinTransformer was given as `window_size`, for `set_input_size`."""
    return model._ref_window_sizes


def bag_weight_gradient(
    y: Tensor, rows: Tensor, source: Tensor, starts: Tensor, bag: Tensor
) -> Tensor:
    """The gradient of `embedding_bag`'s sums by its weights, <rows[source[s]], y[bag[s]]>: [S].

    y: [bags, D], that of the sums. rows: [M, D]. source, bag: [S]. starts: [bags].
    """
    gradient: Tensor = _aten._embedding_bag_per_sample_weights_backward(
        y, rows, source, starts, bag, 0, -1
    )
    return gradient
