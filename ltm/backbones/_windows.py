"""What Swin and Swin V2 share: the tokens of every window merge at the entry of a stage.

All windows keep the same grid, so that tokens still lie on one: 14 x 14 tokens in 7 x 7 windows
become 12 x 12 in 6 x 6. Later windows have the smaller size and their shift is half of it. The
entry of a stage is the only site, for methods that act on the input and for those that act after
attention; the attention before it was among other tokens, so that a method is shown nothing of it.

Legend: B images, W windows, H heads, C channels, (h, w) a window, N = h w.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Self

import timm
import torch
from timm.models import build_model_with_cfg
from timm.models.swin_transformer import window_partition, window_reverse
from torch import nn
from torch.nn import functional as F

from ltm._compat import window_sizes
from ltm.adopt import adopt
from ltm.backbones._base import MergingModel
from ltm.backbones._staged import StagedModel, halved
from ltm.errors import FieldError
from ltm.interfaces import Grid, Site

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from ltm.backbones._choices import Choose
    from ltm.backbones._merging import Merging

_ELSEWHERE = -100.0  # timm's logit between tokens that shifting put side by side


class Windowed(nn.Module):
    """Mixin for a timm block. Modifications: runs on maps and windows of sizes other than timm's.

    Its attention takes x [B W, N, C], a mask [W, N, N] or None, and a window.
    """

    if TYPE_CHECKING:
        # what a block has from timm

        def __getattr__(self, name: str) -> Any: ...

    def window_attention(self, x: Tensor, window: Grid) -> Tensor:
        """Attention within shifted windows of x [B, height, width, C] -> the same."""
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


def between_tokens(table: Tensor, window: Grid) -> Tensor:
    """[H, N, N] of a table by distance [H, 2h - 1, 2w - 1]: at those of a window's tokens."""
    rows, columns = (torch.arange(size, device=table.device) for size in window)
    y = (rows[:, None] - rows + window[0] - 1)[:, None, :, None]
    x = (columns[:, None] - columns + window[1] - 1)[None, :, None, :]
    N = window[0] * window[1]
    return table[:, y, x].reshape(-1, N, N)


def add_to_logits(logits: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
    """[B W, H, N, N] + bias [H, N, N] + mask [W, N, N]."""
    logits = logits + bias
    if mask is None:
        return logits
    by_window = logits.unflatten(0, (-1, len(mask))) + mask[:, None]
    return by_window.flatten(0, 1)


class WindowedModel(StagedModel):
    """Mixin for timm's Swin networks.

    attention_class, block_class: what timm's become; blocks are `Windowed`.
    """

    attention_class: ClassVar[type[nn.Module]]
    block_class: ClassVar[type[nn.Module]]

    @classmethod
    def build(cls, name: str, image_size: Grid | None, **options: Any) -> Any:
        if image_size is not None:
            options["img_size"] = image_size
        return timm.create_model(name, **options)

    @classmethod
    def from_timm(cls, model: Any) -> Self:
        for stage in model.layers:
            for i, block in enumerate(stage.blocks):
                block.attn = adopt(cls.attention_class, block.attn)
                stage.blocks[i] = adopt(cls.block_class, block)
        return adopt(cls, model)

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

    def resize(self, image_size: Grid, **options: Any) -> None:
        # windows keep their size, as when timm builds for an image size
        options.setdefault("window_size", window_sizes(self))
        super(MergingModel, self).set_input_size(image_size, **options)  # type: ignore[misc]


def small_swin(
    cls: type[nn.Module], variant: str, pretrained: bool, options: dict[str, Any]
) -> nn.Module:
    """A network of timm's class with one block a stage, two in the third, for 32 px images."""
    small: dict[str, Any] = {"img_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 32}
    small |= {"depths": (1, 1, 2, 1), "num_heads": (1, 2, 4, 8)}
    model: nn.Module = build_model_with_cfg(cls, variant, pretrained, **{**small, **options})
    return model


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
