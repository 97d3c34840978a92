"""MobileViT, both versions: tokens merge in a MobileViT block, whose map gets smaller.

timm lays out 2 x 2 pixels a token, as [B x 4, N, D]: attention runs between tokens, separately for
each pixel. One mask an image, from the mean over its pixels, merges all four, so that the tokens
that stay fold to a map again; the shortcut around the block merges in the same way. What a method
is shown of attention is the mean over the pixels, too. In version 2 (arXiv 2206.02680) attention is
linear: all tokens look at one context, to which each gives a share, and that is the attention that
it receives; there is no shortcut.

Legend: B images, N tokens, P slots, C channels of the map, D of the transformer.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from timm.models.byobnet import ByobNet
from timm.models.mobilevit import (
    LinearSelfAttention,
    LinearTransformerBlock,
    MobileVitBlock,
    MobileVitV2Block,
)
from torch import nn
from torch.nn import functional as F

from ltm.adopt import adopt
from ltm.backbones._merging import Look, Merging, Seen
from ltm.backbones._registry import register_family
from ltm.backbones._staged import StagedModel, halved
from ltm.backbones._transformer.block import adopt_block
from ltm.errors import FieldError
from ltm.interfaces import Evidence, Grid, Plan, Site

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from ltm.backbones._choices import Choose

DEFAULT_SIZE = (224, 224)  # of the first version: the published table's; timm's own is 256
_SECOND = "mobilevitv2"


class _Unfolds(nn.Module):
    """Mixin for a timm block: maps to tokens and back."""

    align_corners: ClassVar[bool]
    """How timm makes odd maps larger."""
    patch_size: tuple[int, int]

    if TYPE_CHECKING:
        # what a block has from timm

        def __getattr__(self, name: str) -> Any: ...

    def grown(self, x: Tensor) -> Tensor:
        """[B, C, height, width], whole tokens."""
        size = [-(-side // part) * part for side, part in zip(x.shape[2:], self.patch_size)]  # noqa: B905
        if list(x.shape[2:]) == size:
            return x
        return F.interpolate(x, size=size, mode="bilinear", align_corners=self.align_corners)

    def unfold(self, x: Tensor) -> Tensor:
        """[B, C, height, width] -> tokens [B x pixels, N, C]; odd maps grow to whole tokens."""
        h, w = self.patch_size
        x = self.grown(x)
        B, C, height, width = x.shape
        x = x.view(B, C, height // h, h, width // w, w).permute(0, 3, 5, 2, 4, 1)
        return x.reshape(B * h * w, -1, C)

    def fold(self, tokens: Tensor, grid: Grid) -> Tensor:
        """[B x pixels, P, C] -> [B, C, height, width]."""
        h, w = self.patch_size
        x = tokens.view(-1, h, w, *grid, tokens.shape[-1]).permute(0, 5, 3, 1, 4, 2)
        return x.reshape(-1, tokens.shape[-1], grid[0] * h, grid[1] * w)


class MergingMobileVitBlock(_Unfolds, MobileVitBlock):
    """timm's block. Modifications: tokens and shortcut may merge, to a smaller map."""

    align_corners = False

    def forward(self, x: Tensor, merging: Merging | None = None) -> Tensor:
        """x [B, C, height, width] -> [B, C', height, width], or the kept grid's when merging."""
        if merging is None:
            out: Tensor = MobileVitBlock.forward(self, x)
            return out
        assert not isinstance(merging.site.kept, int)
        shortcut = self.unfold(x)
        x = self.unfold(self.conv_1x1(self.conv_kxk(x)))
        for i, block in enumerate(self.transformer):
            x = block(x, merging=merging if i == 0 else None)
        x = self.conv_proj(self.fold(self.norm(x), merging.site.kept))
        if self.conv_fusion is None:
            return x
        shortcut = self.fold(merging.apply(shortcut), merging.site.kept)
        return self.conv_fusion(torch.cat((shortcut, x), dim=1))


class ObservedLinearAttention(LinearSelfAttention):
    """timm's linear attention. Modifications: shows what is requested."""

    def seen(self, x: Tensor, look: Look) -> Seen:
        """Of normed tokens x [B, D, pixels, N], as of softmax attention with one head."""
        query, key, value = self.qkv_proj(x).split([1, self.embed_dim, self.embed_dim], dim=1)
        share = query.softmax(-1)  # [B, 1, pixels, N]
        rows = share.permute(0, 2, 1, 3).flatten(0, 1)  # [B x pixels, 1, N]
        shown = {
            "normed_input": lambda: as_rows(x),
            "keys": lambda: as_rows(key),
            "value_norms": lambda: as_rows(value).norm(dim=-1)[:, None],
            "received": lambda: rows[:, 0],
            "class_attention": lambda: rows,
        }
        return Seen(**{name: shown[name]() for name in look.asks})


def as_rows(x: Tensor) -> Tensor:
    """[B, D, pixels, N] -> [B x pixels, N, D]."""
    return x.permute(0, 2, 3, 1).flatten(0, 1)


def as_columns(x: Tensor, pixels: int) -> Tensor:
    """[B x pixels, N, D] -> [B, D, pixels, N]."""
    return x.unflatten(0, (-1, pixels)).permute(0, 3, 1, 2)


class MergingLinearBlock(LinearTransformerBlock):
    """timm's block. Modifications: tokens may merge at its input, or between attention and MLP."""

    def forward(
        self, x: Tensor, x_prev: Tensor | None = None, merging: Merging | None = None
    ) -> Tensor:
        """x [B, D, pixels, N] -> the same; with `merging` N tokens become P."""
        if merging is None:
            out: Tensor = super().forward(x, x_prev)
            return out
        assert x_prev is None, "tokens of another map do not merge"
        if merging.acts_on_input:
            x = self._merged(x, self.norm1(x), merging)
            x = x + self.drop_path1(self.attn(self.norm1(x)))
        else:
            normed = self.norm1(x)
            x = self._merged(x + self.drop_path1(self.attn(normed)), normed, merging)
        return x + self.drop_path2(self.mlp(self.norm2(x)))

    def _merged(self, x: Tensor, normed: Tensor, merging: Merging) -> Tensor:
        seen = self.attn.seen(normed, merging.look) if merging.look.asks else None
        return as_columns(merging(as_rows(x), seen), merging.pixels)


class MergingMobileVitV2Block(_Unfolds, MobileVitV2Block):
    """timm's block. Modifications: tokens may merge, to a smaller map."""

    align_corners = True

    def forward(self, x: Tensor, merging: Merging | None = None) -> Tensor:
        """x [B, C, height, width] -> [B, C', height, width], or the kept grid's when merging."""
        if merging is None:
            out: Tensor = MobileVitV2Block.forward(self, x)
            return out
        assert not isinstance(merging.site.kept, int)
        x = self.unfold(self.conv_1x1(self.conv_kxk(self.grown(x))))
        x = as_columns(x, merging.pixels)
        for i, block in enumerate(self.transformer):
            x = block(x, merging=merging if i == 0 else None)
        x = self.fold(as_rows(self.norm(x)), merging.site.kept)
        projected: Tensor = self.conv_proj(x)
        return projected


_BLOCKS: dict[type, Any] = {
    MobileVitBlock: MergingMobileVitBlock,
    MobileVitV2Block: MergingMobileVitV2Block,
}


@register_family(
    "timm.models.mobilevit",
    label="MobileViT",
    aliases={"mobilevit": "mobilevit_s"},
)
class MergingMobileViT(StagedModel, ByobNet):
    """timm's MobileViT of both versions, a ByobNet. Modifications: MobileViT blocks may merge."""

    tap_includes_end = True
    offers: ClassVar[frozenset[Evidence]] = frozenset(
        {"normed_input", "keys", "value_norms", "received", "class_attention"}
    )
    default_plans: ClassVar[Mapping[tuple[str, Grid], Plan]] = {
        ("mobilevit_xs", (224, 224)): {"stages.2.1": (11, 11), "stages.3.1": (4, 4)},
        ("mobilevit_s", (224, 224)): {"stages.2.1": (12, 12)},
    }

    @classmethod
    def build(cls, name: str, image_size: Grid | None, **options: Any) -> Any:
        if image_size is None and not name.startswith(_SECOND):
            image_size = DEFAULT_SIZE
        return super().build(name, image_size, **options)

    @classmethod
    def own_size(cls, name: str) -> int | None:
        return super().own_size(name) if name.startswith(_SECOND) else DEFAULT_SIZE[0]

    @classmethod
    def from_timm(cls, model: Any) -> MergingMobileViT:
        blocks = [block for stage in model.stages for block in stage]
        if type(model) is not ByobNet or not any(type(block) in _BLOCKS for block in blocks):
            name = model.pretrained_cfg["architecture"]
            raise FieldError("backbone", name, "a MobileViT or MobileViT V2 of timm")
        for stage in model.stages:
            for i, block in enumerate(stage):
                if type(block) in _BLOCKS:
                    for j, inner in enumerate(block.transformer):
                        block.transformer[j] = _adopt_inner(inner)
                    stage[i] = adopt(_BLOCKS[type(block)], block)
        return adopt(cls, model)

    def stage_modules(self) -> list[nn.Module]:
        return list(self.stages)

    def site_of_stage(self, i: int) -> str:
        return f"stages.{i}.{len(self.stages[i]) - 1}"

    def run_stem(self, x: Tensor) -> Tensor:
        stem: Tensor = self.stem(x)
        return stem

    def run_stage(self, i: int, x: Tensor, merging: Merging | None) -> Tensor:
        *before, last = self.stages[i]
        for block in before:
            x = block(x)
        return last(x) if merging is None else last(x, merging)

    def run_end(self, x: Tensor) -> Tensor:
        end: Tensor = self.final_conv(x)
        return end

    def tap_stages(self) -> list[int]:
        return list(self.stage_ends)

    def unmerged(self, x: Tensor, merging: Merging) -> Tensor:
        assert merging.site.grid is not None
        block = self.get_submodule(merging.site.name)
        return block.fold(merging.unmerge(block.unfold(x)), merging.site.grid)

    def merging(self, name: str) -> Merging | None:
        site = self.sites.get(name)
        if site is None:
            return None
        pixels = self.get_submodule(name).patch_area
        return Merging(self.method, site, pixels=pixels, offers=self.offers)

    def widths(self) -> dict[str, int]:
        ends = {self.site_of_stage(i): stage[-1] for i, stage in enumerate(self.stages)}
        return {
            name: block.conv_1x1.out_channels
            for name, block in ends.items()
            if isinstance(block, _Unfolds)
        }

    def default_sites(self) -> list[str]:
        return self.site_names()[:1]

    def walk(self, choose: Choose) -> Iterator[Site]:
        widths = self.widths()
        size = halved(self.image_size)  # the stem
        for i in range(len(self.stages)):
            size = size if i == 0 else halved(size)
            name = self.site_of_stage(i)
            if name not in widths:
                continue
            block = self.get_submodule(name)
            h, w = block.patch_size
            grid = -(-size[0] // h), -(-size[1] // w)
            kept = choose(name, grid, math.prod(grid))
            if kept is None or kept == grid:
                continue
            assert not isinstance(kept, int)
            yield Site(name, widths[name], grid, math.prod(grid), kept)
            size = kept[0] * h, kept[1] * w


def _adopt_inner(block: Any) -> Any:
    """A transformer block that can merge, of either version."""
    if type(block) is not LinearTransformerBlock:
        return adopt_block(block)
    block.attn = adopt(ObservedLinearAttention, block.attn)
    return adopt(MergingLinearBlock, block)
