"""EfficientViT of MIT: tokens merge between the linear attention and the MBConv of a block.

The tokens that stay are laid out on the kept grid, so linear attention and depth-wise convolutions
run on the smaller map unchanged. The first block of stage 3 or 4 is a site; a method that acts on
the input merges before its linear attention, which has no map that could be shown.

Legend: B images, N tokens, P slots, C channels.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

from timm.models.efficientvit_mit import EfficientVit, EfficientVitBlock

from ltm.adopt import adopt
from ltm.backbones._registry import register_family
from ltm.backbones._staged import StagedModel, halved, merged_map
from ltm.errors import FieldError
from ltm.interfaces import Grid, Plan, Site

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor, nn

    from ltm.backbones._choices import Choose
    from ltm.backbones._merging import Merging


class MergingEfficientVitBlock(EfficientVitBlock):
    """timm's block. Modifications: tokens may merge before its first half, or between the two."""

    def forward(self, x: Tensor, merging: Merging | None = None) -> Tensor:
        """x [B, C, height, width] -> the same, or the kept grid's size when merging."""
        if merging is not None and merging.acts_on_input:
            x, merging = merged_map(x, merging), None
        x = self.context_module(x)
        return self.local_module(x if merging is None else merged_map(x, merging))


@register_family(
    "timm.models.efficientvit_mit",
    label="EfficientViT",
    aliases={"efficientvit": "efficientvit_b1"},
    refuses="^efficientvit_l",
)
class MergingEfficientViT(StagedModel, EfficientVit):
    """timm's EfficientViT (B series). Modifications: the first block of a stage may merge."""

    default_plans: ClassVar[Mapping[tuple[str, Grid], Plan]] = {
        ("efficientvit_b1", (224, 224)): {"stages.2": (12, 12)},
        ("efficientvit_b1", (288, 288)): {"stages.2": (16, 16), "stages.3": (7, 7)},
    }

    @classmethod
    def build(cls, name: str, image_size: Grid | None, **options: Any) -> Any:
        drop_path = options.pop("drop_path_rate", 0)
        if drop_path:  # timm's EfficientViT has no stochastic depth
            raise FieldError("drop_path", drop_path, f"only 0 for {name}")
        return super().build(name, image_size, **options)

    @classmethod
    def from_timm(cls, model: Any) -> MergingEfficientViT:
        if type(model) is not EfficientVit:
            problem = f"is a {type(model).__name__}"
            raise FieldError("backbone", type(model).__name__, "efficientvit_b0 to b3", problem)
        for stage in model.stages:
            for i, block in enumerate(stage.blocks):
                if type(block) is EfficientVitBlock:
                    stage.blocks[i] = adopt(MergingEfficientVitBlock, block)
        return adopt(cls, model)

    def stage_modules(self) -> list[nn.Module]:
        return list(self.stages)

    def site_of_stage(self, i: int) -> str:
        return f"stages.{i}"

    def run_stem(self, x: Tensor) -> Tensor:
        stem: Tensor = self.stem(x)
        return stem

    def run_stage(self, i: int, x: Tensor, merging: Merging | None) -> Tensor:
        for block in self.stages[i].blocks:
            if merging is not None and isinstance(block, MergingEfficientVitBlock):
                x, merging = block(x, merging), None
            else:
                x = block(x)
        return x

    def run_end(self, x: Tensor) -> Tensor:
        return x

    def widths(self) -> dict[str, int]:
        return {
            f"stages.{i}": info["num_chs"]
            for i, (stage, info) in enumerate(zip(self.stages, self.feature_info, strict=True))
            if any(isinstance(block, EfficientVitBlock) for block in stage.blocks)
        }

    def default_sites(self) -> list[str]:
        return self.site_names()[:1]

    def walk(self, choose: Choose) -> Iterator[Site]:
        size = halved(self.image_size)  # the stem
        widths = self.widths()
        for i in range(len(self.stages)):
            size, name = halved(size), f"stages.{i}"
            kept = choose(name, size, math.prod(size)) if name in widths else None
            if kept is None or kept == size:
                continue
            assert not isinstance(kept, int)
            yield Site(name, widths[name], size, math.prod(size), kept)
            size = kept
