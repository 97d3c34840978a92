"""Swin: windows merge at the entry of a stage, see `WindowedModel`.

The relative position bias, learned for the larger window, is read at the distances between merged
tokens (bilinear): weights keep timm's shapes whatever the plan.

Legend: B images, W windows, H heads, C channels, (h, w) a window, N = h w.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from timm.models import register_model
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock, WindowAttention

from ltm.backbones._registry import register_family, small_cfg
from ltm.backbones._windows import (
    Windowed,
    WindowedModel,
    add_to_logits,
    between_tokens,
    small_swin,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ltm.interfaces import Grid, Plan


class ResizedWindowAttention(WindowAttention):
    """timm's attention. Modifications: windows may be smaller than the bias table's."""

    def forward(self, x: Tensor, mask: Tensor | None = None, window: Grid | None = None) -> Tensor:
        """x [B W, N, C], mask [W, N, N] of 0 and -100 -> [B W, N, C]."""
        if window is None or window == self.window_size:
            out: Tensor = super().forward(x, mask)
            return out
        BW, N, _ = x.shape
        qkv = self.qkv(x).reshape(BW, N, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        bias = resized_bias(self.relative_position_bias_table, self.window_size, window)
        logits = add_to_logits((q * self.scale) @ k.transpose(-2, -1), bias, mask)
        y = self.attn_drop(logits.softmax(-1)) @ v
        return self.proj_drop(self.proj(y.transpose(1, 2).reshape(BW, N, -1)))


def resized_bias(table: Tensor, window: Grid, smaller: Grid) -> Tensor:
    """Relative position bias of a smaller window over the same area, [H, N, N].

    table: [(2h - 1)(2w - 1), H], learned for `window`. A step in the smaller window is a longer
    one in the larger: between rows i and j it is (i - j) h / h'.
    """
    h, w = window
    table = table.view(2 * h - 1, 2 * w - 1, -1)
    by_rows = _interpolation(h, smaller[0], table)
    by_columns = _interpolation(w, smaller[1], table)
    bias = torch.einsum("ya,xb,abn->nyx", by_rows, by_columns, table)
    return between_tokens(bias, smaller)


def _interpolation(size: int, smaller: int, like: Tensor) -> Tensor:
    """[2 smaller - 1, 2 size - 1]: how to read a table at the distances of a smaller window."""
    distance = torch.arange(1 - smaller, smaller, device=like.device) * (size / smaller)
    entry = torch.arange(1 - size, size, device=like.device)
    return (1 - (distance[:, None] - entry).abs()).clamp_min(0).to(like.dtype)


class MergingSwinBlock(Windowed, SwinTransformerBlock):
    """timm's block, see `Windowed`."""

    def forward(self, x: Tensor, window: Grid | None = None) -> Tensor:
        """x [B, height, width, C] -> the same. window: None for the one that timm built."""
        if window is None:
            out: Tensor = SwinTransformerBlock.forward(self, x)
            return out
        x = x + self.drop_path1(self.window_attention(self.norm1(x), window))
        return x + self.drop_path2(self.mlp(self.norm2(x)))


@register_family(
    "timm.models.swin_transformer",
    __name__,
    label="Swin",
    aliases={
        "swin_tiny": "swin_tiny_patch4_window7_224",
        "swin_t": "swin_tiny_patch4_window7_224",
        "swin_small": "swin_small_patch4_window7_224",
        "swin_s": "swin_small_patch4_window7_224",
        "swin_base": "swin_base_patch4_window7_224",
        "swin_b": "swin_base_patch4_window7_224",
    },
)
class MergingSwin(WindowedModel, SwinTransformer):
    """timm's Swin. Modifications: windows may merge at the entry of a stage."""

    attention_class = ResizedWindowAttention
    block_class = MergingSwinBlock

    def default_plan(self) -> float | Plan:
        if self.window_of(2) == (7, 7):
            return {"layers.2": (6, 6)}
        return super().default_plan()


default_cfgs = {"swin_nano_patch2_window4_32": small_cfg("head.fc")}


@register_model
def swin_nano_patch2_window4_32(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Swin of width 32 and one block a stage, two in the third, for 32 px images."""
    return small_swin(SwinTransformer, "swin_nano_patch2_window4_32", pretrained, kwargs)
