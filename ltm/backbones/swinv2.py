"""Swin V2: windows merge at the entry of a stage, see `WindowedModel`.

The position bias is a network of the distance, which is asked at the distances between merged
tokens: weights keep timm's shapes whatever the plan.

Legend: B images, W windows, H heads, C channels, (h, w) a window, N = h w.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from timm.models import register_model
from timm.models.swin_transformer_v2 import (
    SwinTransformerV2,
    SwinTransformerV2Block,
    WindowAttention,
)
from torch import Tensor
from torch.nn import functional as F

from ltm.backbones._registry import register_family, small_cfg
from ltm.backbones._windows import (
    Windowed,
    WindowedModel,
    add_to_logits,
    between_tokens,
    small_swin,
)

if TYPE_CHECKING:
    from torch import nn

    from ltm.interfaces import Grid

_LARGEST_SCALE = math.log(100.0)  # of logits


class ResizedCosineAttention(WindowAttention):
    """timm's attention. Modifications: windows may be smaller than built for."""

    def forward(self, x: Tensor, mask: Tensor | None = None, window: Grid | None = None) -> Tensor:
        """x [B W, N, C], mask [W, N, N] of 0 and -100 -> [B W, N, C]."""
        if window is None or window == self.window_size:
            out: Tensor = super().forward(x, mask)
            return out
        bias = None
        if self.q_bias is not None:
            bias = torch.cat([self.q_bias, self.k_bias, self.v_bias])
        qkv = F.linear(x, self.qkv.weight, bias).unflatten(2, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        scale = self.logit_scale.clamp(max=_LARGEST_SCALE).exp()
        cosine = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * scale
        logits = add_to_logits(cosine, self._bias(window), mask)
        y = self.attn_drop(logits.softmax(-1)) @ v
        return self.proj_drop(self.proj(y.transpose(1, 2).flatten(2)))

    def _bias(self, smaller: Grid) -> Tensor:
        """[H, N, N] for a smaller window over the same area: a step in it is a longer one in the
        window that timm built (arXiv 2111.09883, section 3.3)."""
        weight = self.cpb_mlp[0].weight
        steps = [
            _log_distances(size, whole, learned, weight)
            for size, whole, learned in zip(
                smaller, self.window_size, self.pretrained_window_size, strict=True
            )
        ]
        table = torch.stack(torch.meshgrid(*steps, indexing="ij"), -1)
        bias = 16 * self.cpb_mlp(table).sigmoid()  # [2h - 1, 2w - 1, H]
        return between_tokens(bias.permute(2, 0, 1), smaller)


def _log_distances(smaller: int, whole: int, learned: int, like: Tensor) -> Tensor:
    """[2 smaller - 1]: signed logarithms of distances, 8 being the side of the window that the
    network of distances was learned for (0: the whole one)."""
    steps = torch.arange(1 - smaller, smaller, device=like.device) * (whole / smaller)
    distance = 8 * steps / max((learned or whole) - 1, 1)
    return (distance.sign() * (distance.abs() + 1).log2() / math.log2(8)).to(like.dtype)


class MergingSwinV2Block(Windowed, SwinTransformerV2Block):
    """timm's block, see `Windowed`."""

    def forward(self, x: Tensor, window: Grid | None = None) -> Tensor:
        """x [B, height, width, C] -> the same. window: None for the one that timm built."""
        if window is None:
            out: Tensor = SwinTransformerV2Block.forward(self, x)
            return out
        x = x + self.drop_path1(self.norm1(self.window_attention(x, window)))
        return x + self.drop_path2(self.norm2(self.mlp(x)))


@register_family(
    "timm.models.swin_transformer_v2",
    __name__,
    label="Swin V2",
    aliases={"swinv2_t": "swinv2_tiny_window8_256", "swinv2_s": "swinv2_small_window8_256"},
)
class MergingSwinV2(WindowedModel, SwinTransformerV2):
    """timm's Swin V2. Modifications: windows may merge at the entry of a stage."""

    attention_class = ResizedCosineAttention
    block_class = MergingSwinV2Block


default_cfgs = {"swinv2_nano_window4_32": small_cfg("head.fc")}


@register_model
def swinv2_nano_window4_32(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Swin V2 of width 32 and one block a stage, two in the third, for 32 px images."""
    return small_swin(SwinTransformerV2, "swinv2_nano_window4_32", pretrained, kwargs)
