"""MobileViT: tokens merge in a MobileViT block, and the map that it folds gets smaller.

timm lays out 2 x 2 pixels a token, as [B x 4, N, D]: attention runs between tokens, separately for
each pixel. One mask an image, from the mean over its pixels, merges all four, so that the tokens
that stay fold to a map again; the shortcut around the block merges in the same way. What a method
is shown of attention is the mean over the pixels, too.

Legend: B images, N tokens, P slots, C channels of the map, D of the transformer.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from timm.models.byobnet import ByobNet
from timm.models.mobilevit import MobileVitBlock
from torch.nn import functional as F

from ltm.adopt import adopt
from ltm.backbones._attention import adopt_block
from ltm.backbones._merging import Merging
from ltm.backbones._registry import register_family
from ltm.backbones._staged import StagedModel, halved
from ltm.errors import FieldError
from ltm.interfaces import Evidence, Grid, Plan, Site

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor, nn

    from ltm.backbones._choices import Choose

DEFAULT_SIZE = (224, 224)  # the published table's; timm's own is 256


class MergingMobileVitBlock(MobileVitBlock):
    """timm's block. Modifications: tokens and shortcut may merge, to a smaller map."""

    def forward(self, x: Tensor, merging: Merging | None = None) -> Tensor:
        """x [B, C, height, width] -> [B, C', height, width], or the kept grid's when merging."""
        if merging is None:
            out: Tensor = super().forward(x)
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

    def unfold(self, x: Tensor) -> Tensor:
        """[B, C, height, width] -> tokens [B x pixels, N, C]; odd maps grow to whole tokens."""
        h, w = self.patch_size
        B, C, height, width = x.shape
        rows, columns = -(-height // h), -(-width // w)
        if (height, width) != (rows * h, columns * w):
            size = (rows * h, columns * w)
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
        x = x.view(B, C, rows, h, columns, w).permute(0, 3, 5, 2, 4, 1)
        return x.reshape(B * h * w, rows * columns, C)

    def fold(self, tokens: Tensor, grid: Grid) -> Tensor:
        """[B x pixels, P, C] -> [B, C, height, width]."""
        h, w = self.patch_size
        x = tokens.view(-1, h, w, *grid, tokens.shape[-1]).permute(0, 5, 3, 1, 4, 2)
        return x.reshape(-1, tokens.shape[-1], grid[0] * h, grid[1] * w)


@register_family(
    "timm.models.mobilevit",
    label="MobileViT",
    aliases={"mobilevit": "mobilevit_s"},
    refuses="^mobilevitv2",
)
class MergingMobileViT(StagedModel, ByobNet):
    """timm's MobileViT, a ByobNet. Modifications: MobileViT blocks may merge."""

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
        return super().build(name, image_size or DEFAULT_SIZE, **options)

    @classmethod
    def own_size(cls, name: str) -> int:  # noqa: ARG003 - of all of them
        return DEFAULT_SIZE[0]

    @classmethod
    def from_timm(cls, model: Any) -> MergingMobileViT:
        blocks = [block for stage in model.stages for block in stage]
        if type(model) is not ByobNet or not any(type(b) is MobileVitBlock for b in blocks):
            raise FieldError(
                "backbone",
                model.pretrained_cfg["architecture"],
                "a MobileViT of the first version: mobilevit_xxs, mobilevit_xs or mobilevit_s",
            )
        for stage in model.stages:
            for i, block in enumerate(stage):
                if type(block) is MobileVitBlock:
                    for j, inner in enumerate(block.transformer):
                        block.transformer[j] = adopt_block(inner)
                    stage[i] = adopt(MergingMobileVitBlock, block)
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
            if isinstance(block, MobileVitBlock)
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
