"""Swin: the tokens of every window merge at the entry of a stage, and windows become smaller.

All windows keep the same grid, so that tokens still lie on one: 14 x 14 tokens in 7 x 7 windows
become 12 x 12 in 6 x 6. Later windows have the smaller size, their shift is half of it, and the
relative position bias, learned for the larger window, is read at the distances between merged
tokens (bilinear): weights keep timm's shapes whatever the plan. The entry of a stage is the only
site, for methods that act on the input and for those that act after attention; the attention before
it was among other tokens, so that a method is shown nothing of it.

Legend: B images, W windows, H heads, C channels, (h, w) a window, N = h w.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import timm
import torch
from timm.models import build_model_with_cfg, register_model
from timm.models.swin_transformer import (
    SwinTransformer,
    SwinTransformerBlock,
    WindowAttention,
    window_partition,
    window_reverse,
)
from torch.nn import functional as F

from ltm._compat import window_sizes
from ltm.adopt import adopt
from ltm.backbones._registry import register_family, small_cfg
from ltm.backbones._staged import StagedModel, halved
from ltm.errors import FieldError
from ltm.interfaces import Grid, Plan, Site

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from ltm.backbones._choices import Choose
    from ltm.backbones._merging import Merging

_ELSEWHERE = -100.0  # timm's logit between tokens that shifting put side by side


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
        attention = (q * self.scale) @ k.transpose(-2, -1) + bias
        if mask is not None:
            W = len(mask)
            attention = attention.view(-1, W, self.num_heads, N, N) + mask[:, None]
            attention = attention.view(-1, self.num_heads, N, N)
        y = self.attn_drop(attention.softmax(-1)) @ v
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
    rows, columns = (torch.arange(size, device=table.device) for size in smaller)
    y = (rows[:, None] - rows + smaller[0] - 1)[:, None, :, None]
    x = (columns[:, None] - columns + smaller[1] - 1)[None, :, None, :]
    N = smaller[0] * smaller[1]
    return bias[:, y, x].reshape(-1, N, N)


def _interpolation(size: int, smaller: int, like: Tensor) -> Tensor:
    """[2 smaller - 1, 2 size - 1]: how to read a table at the distances of a smaller window."""
    distance = torch.arange(1 - smaller, smaller, device=like.device) * (size / smaller)
    entry = torch.arange(1 - size, size, device=like.device)
    return (1 - (distance[:, None] - entry).abs()).clamp_min(0).to(like.dtype)


class MergingSwinBlock(SwinTransformerBlock):
    """timm's block. Modifications: runs on maps and windows of other sizes than built for."""

    def forward(self, x: Tensor, window: Grid | None = None) -> Tensor:
        """x [B, height, width, C] -> the same. window: None for the one that timm built."""
        if window is None:
            out: Tensor = super().forward(x)
            return out
        x = x + self.drop_path1(self._window_attention(self.norm1(x), window))
        return x + self.drop_path2(self.mlp(self.norm2(x)))

    def _window_attention(self, x: Tensor, window: Grid) -> Tensor:
        _B, height, width, C = x.shape
        shift = tuple(
            w // 2 if s and size > w else 0
            for s, w, size in zip(self.target_shift_size, window, (height, width), strict=True)
        )
        pad = [-size % w for size, w in zip((height, width), window, strict=True)]
        if any(shift):
            x = torch.roll(x, shifts=(-shift[0], -shift[1]), dims=(1, 2))
        x = F.pad(x, (0, 0, 0, pad[1], 0, pad[0]))
        grid = height + pad[0], width + pad[1]
        mask = shift_mask(grid, window, shift, x) if any(shift) else None
        windows = window_partition(x, window).flatten(1, 2)
        windows = self.attn(windows, mask, window).view(-1, *window, C)
        x = window_reverse(windows, window, *grid)[:, :height, :width]
        return torch.roll(x, shifts=shift, dims=(1, 2)) if any(shift) else x


def shift_mask(grid: Grid, window: Grid, shift: tuple[int, ...], like: Tensor) -> Tensor:
    """[W, N, N]: -100 between tokens that lie in one window only because of the shift, else 0."""
    region = torch.zeros(1, 1, 1, 1, device=like.device)
    for axis, (size, w, s) in enumerate(zip(grid, window, shift, strict=True)):
        place = torch.arange(size, device=like.device)
        part = (place >= size - w).float() + (place >= size - s).float() * (s > 0)
        shape = (1, -1, 1, 1) if axis == 0 else (1, 1, -1, 1)
        region = 3 * region + part.view(shape)
    regions = window_partition(region, window).flatten(1)
    return ((regions[:, None] != regions[:, :, None]) * _ELSEWHERE).to(like.dtype)


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
class MergingSwin(StagedModel, SwinTransformer):
    """timm's Swin. Modifications: windows may merge at the entry of a stage."""

    @classmethod
    def build(cls, name: str, image_size: Grid | None, **options: Any) -> Any:
        if image_size is not None:
            options["img_size"] = image_size
        return timm.create_model(name, **options)

    @classmethod
    def from_timm(cls, model: Any) -> MergingSwin:
        for stage in model.layers:
            for i, block in enumerate(stage.blocks):
                block.attn = adopt(ResizedWindowAttention, block.attn)
                stage.blocks[i] = adopt(MergingSwinBlock, block)
        return adopt(cls, model)

    def default_plan(self) -> float | Plan:
        if self.window_of(2) == (7, 7):
            return {"layers.2": (6, 6)}
        return super().default_plan()

    def window_of(self, i: int) -> Grid:
        """The window that timm built stage i with."""
        h, w = self.layers[i].blocks[0].window_size
        return h, w

    def stage_modules(self) -> list[nn.Module]:
        return list(self.layers)

    def site_of_stage(self, i: int) -> str:
        return f"layers.{i}"

    @property
    def grad_checkpointing(self) -> bool:
        """timm keeps it in the stages."""
        return bool(self.layers[0].grad_checkpointing)

    def run_stem(self, x: Tensor) -> Tensor:
        stem: Tensor = self.patch_embed(x)
        return stem

    def run_stage(self, i: int, x: Tensor, merging: Merging | None) -> Tensor:
        stage = self.layers[i]
        x = stage.downsample(x)
        if merging is not None:
            x = exchange_windows(x, merging)
        window = self.window_at(i)
        for block in stage.blocks:
            x = block(x, window)
        return x

    def window_at(self, i: int) -> Grid | None:
        """The window of stage i under the plan; None when it is timm's."""
        merged = [
            self.sites[f"layers.{j}"].kept for j in range(i + 1) if f"layers.{j}" in self.sites
        ]
        if not merged:
            return None
        window = merged[-1]
        assert not isinstance(window, int)
        return window

    def run_end(self, x: Tensor) -> Tensor:
        end: Tensor = self.norm(x)
        return end

    def widths(self) -> dict[str, int]:
        return {f"layers.{i}": info["num_chs"] for i, info in enumerate(self.feature_info)}

    def as_map(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2)

    def unmerged(self, x: Tensor, merging: Merging) -> Tensor:
        return self.as_map(exchange_windows(x.permute(0, 2, 3, 1), merging, back=True))

    def resize(self, image_size: Grid, **options: Any) -> None:
        # windows keep their size, as when timm builds for an image size
        options.setdefault("window_size", window_sizes(self))
        SwinTransformer.set_input_size(self, image_size, **options)

    def default_sites(self) -> list[str]:
        return ["layers.2"]

    def walk(self, choose: Choose) -> Iterator[Site]:
        size: Grid = self.patch_embed.grid_size
        merged: Grid | None = None
        for i, (name, dim) in enumerate(self.widths().items()):
            size = size if i == 0 else halved(size)
            window = self.window_of(i) if merged is None else merged
            window = min(window[0], size[0]), min(window[1], size[1])
            kept = choose(name, window, math.prod(window))
            if kept is None or kept == window:
                continue
            assert not isinstance(kept, int)
            if size[0] % window[0] or size[1] % window[1]:
                multiple = self.feature_info[i]["reduction"] * window[0]
                raise FieldError(
                    "image_size",
                    self.image_size,
                    f"multiples of {multiple} pixels",
                    f"is {self.image_size[0]} x {self.image_size[1]}, whose {size[0]} x {size[1]} "
                    f"tokens at {name} windows of {window[0]} x {window[1]} do not divide",
                )
            tiles = size[0] // window[0], size[1] // window[1]
            yield Site(name, dim, window, math.prod(window), kept, tiles)
            size = tiles[0] * kept[0], tiles[1] * kept[1]
            merged = kept


def exchange_windows(x: Tensor, merging: Merging, back: bool = False) -> Tensor:
    """Merge every window of a map [B, height, width, C] to a smaller one, or bring it back."""
    grid, kept = merging.site.grid, merging.site.kept
    assert grid is not None
    assert not isinstance(kept, int)
    old, new = (kept, grid) if back else (grid, kept)
    windows = window_partition(x, old).flatten(1, 2)
    windows = (merging.unmerge if back else merging)(windows).view(-1, *new, x.shape[-1])
    rows, columns = merging.site.tiles
    out: Tensor = window_reverse(windows, new, rows * new[0], columns * new[1])
    return out


default_cfgs = {"swin_nano_patch2_window4_32": small_cfg("head.fc")}


@register_model
def swin_nano_patch2_window4_32(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Swin of width 32 and one block a stage, two in the third, for 32 px images."""
    small: dict[str, Any] = {"img_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 32}
    small |= {"depths": (1, 1, 2, 1), "num_heads": (1, 2, 4, 8)}
    model: nn.Module = build_model_with_cfg(
        SwinTransformer, "swin_nano_patch2_window4_32", pretrained, **{**small, **kwargs}
    )
    return model
