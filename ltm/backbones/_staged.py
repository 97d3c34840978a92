"""Networks of stages, whose maps get smaller: the forward pass of all hierarchical families."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import timm
from timm.models import checkpoint
from torch.nn import functional as F

from ltm._compat import feature_take_indices
from ltm.backbones._base import MergingModel
from ltm.errors import FieldError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ltm.backbones._merging import Merging
    from ltm.interfaces import Grid


class StagedModel(MergingModel):
    """A network of stages, each a map of half the size, where merging makes maps smaller.

    Every stage has at most one site.

    tap_includes_end: timm's last feature is what `run_end` gives.
    """

    tap_includes_end: ClassVar[bool] = False

    @classmethod
    def build(cls, name: str, image_size: Grid | None, **options: Any) -> Any:
        if image_size is not None:
            check_size(name, image_size)
            overlay = options.get("pretrained_cfg_overlay", {})
            options["pretrained_cfg_overlay"] = {**overlay, "input_size": (3, *image_size)}
        return timm.create_model(name, **options)

    @abstractmethod
    def stage_modules(self) -> list[nn.Module]:
        """timm's stages in order."""

    @abstractmethod
    def run_stem(self, x: Tensor) -> Tensor:
        """Images to what the first stage takes."""

    @abstractmethod
    def run_stage(self, i: int, x: Tensor, merging: Merging | None) -> Tensor:
        """Stage i, which merges when `merging` is given."""

    @abstractmethod
    def run_end(self, x: Tensor) -> Tensor:
        """What the last stage gives to what `forward_head` takes."""

    @abstractmethod
    def site_of_stage(self, i: int) -> str:
        """The name of the site in stage i."""

    def unmerged(self, x: Tensor, merging: Merging) -> Tensor:
        """What `run_stage` gave, [B, C, height, width], brought back to the places of sources."""
        assert merging.site.grid is not None
        tokens = merging.unmerge(x.flatten(2).transpose(1, 2))
        return tokens.transpose(1, 2).reshape(x.shape[0], -1, *merging.site.grid)

    def tap_stages(self) -> list[int]:
        """How many stages have run at each feature of timm's `feature_info`."""
        return list(range(1, len(self.stage_modules()) + 1))

    def as_map(self, x: Tensor) -> Tensor:
        """What a stage gives, as [B, C, height, width]."""
        return x

    def resize(self, image_size: Grid, **options: Any) -> None:
        for option, value in options.items():
            problem = f"is given to {self.timm_name}, which takes a size alone"
            raise FieldError(option, value, problem=problem)
        check_size(self.timm_name, image_size)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images [B, 3, height, width] -> the last map, as timm lays it out."""
        self.check_images(x)
        x = self.run_stem(x)
        for i in range(len(self.stage_modules())):
            x = self._checkpointed(i, x, self.merging(self.site_of_stage(i)))
        return self.run_end(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """As timm's: maps [B, C, height, width] of features, at their nominal stride.

        A map of the stage that merges comes back by `Merge.unmerge`; of a later one, which is
        smaller all over, by bilinear interpolation.
        """
        assert output_fmt == "NCHW", "Output shape must be NCHW."
        self.check_images(x)
        ends = self.tap_stages()
        taps, last = feature_take_indices(len(ends), indices)
        wanted = {ends[tap]: self.feature_info[tap]["reduction"] for tap in taps}
        features: list[Tensor] = []

        x = self.run_stem(x)
        if 0 in wanted:
            features.append(x)
        stages = len(self.stage_modules())
        for i in range(ends[last] if stop_early else stages):
            merging = self.merging(self.site_of_stage(i))
            x = self.run_stage(i, x, merging)
            if i + 1 in wanted:
                final = i + 1 == stages
                # timm's taps of the last stage: Swin norms it on demand, MobileViT convolves it
                end = final and (norm or self.tap_includes_end)
                tapped = self.as_map(self.run_end(x) if end else x)
                if merging is not None and tapped.shape[1] == self.as_map(x).shape[1]:
                    tapped = self.unmerged(tapped, merging)
                size = [-(-pixels // wanted[i + 1]) for pixels in self.image_size]
                if list(tapped.shape[-2:]) != size:
                    tapped = F.interpolate(tapped, size, mode="bilinear", align_corners=False)
                features.append(tapped)
        if intermediates_only:
            return features
        return self.run_end(x) if not stop_early or ends[last] == stages else x, features

    def _checkpointed(self, i: int, x: Tensor, merging: Merging | None) -> Tensor:
        if self.grad_checkpointing and self.training:
            out: Tensor = checkpoint(self.run_stage, i, x, merging)
            return out
        return self.run_stage(i, x, merging)


def merged_map(x: Tensor, merging: Merging) -> Tensor:
    """Merge the cells of a map: [B, C, height, width] -> [B, C, *kept grid]."""
    assert not isinstance(merging.site.kept, int)
    tokens = merging(x.flatten(2).transpose(1, 2))
    return tokens.transpose(1, 2).reshape(x.shape[0], -1, *merging.site.kept)


def halved(size: Grid) -> Grid:
    """The map after a 3 x 3 convolution of stride 2 and padding 1."""
    return (size[0] + 1) // 2, (size[1] + 1) // 2


def check_size(name: str, size: Grid) -> None:
    """FieldError for images smaller than one cell of a map of stride 32."""
    if min(size) < 32:
        problem = f"is {size[0]} x {size[1]}"
        raise FieldError("image_size", size, f"32 x 32 or more for {name}", problem)
