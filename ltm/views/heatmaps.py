"""Which source tokens made this target token, as an array and as a picture.

The picture is that of the paper (arXiv 2407.15219, figure 3): one target, and over the image the
weights of the tokens that went into it. Works for every method that merges, on every backbone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from ltm.errors import FieldError
from ltm.views.maps import merges

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from ltm.interfaces import Grid, Site

_SMALLEST = 1e-12  # of a sum of weights
_DIMMED = 0.35  # brightness of the image where nothing merged
_HOT = (1.0, 0.25, 0.1)
_FRAME = (0.1, 1.0, 0.2)


@dataclass(frozen=True)
class Heatmap:
    """The weights that made one target token.

    weights: [rows, columns] over the tokens of the image before the first merge; they sum to 1, or
        all are 0 where the target was dropped.
    target: row and column of the target: the source that was given.
    sources: how many tokens have any weight.
    """

    weights: Tensor
    target: Grid

    @property
    def sources(self) -> int:
        return int((self.weights > 0).sum())

    def picture(self, image: Tensor) -> Tensor:
        """The image [3, height, width], values in [0, 1], with weights and target drawn over it.

        Bright where weight is, relative to the largest; the target has a frame. Returns uint8
        [3, height, width], for `torchvision.io.write_png`.
        """
        _, height, width = image.shape
        rows, columns = self.weights.shape
        share = self.weights / self.weights.max().clamp_min(_SMALLEST)
        share = F.interpolate(share[None, None], (height, width), mode="nearest")[0]
        hot = torch.tensor(_HOT)[:, None, None]
        lit = image * (_DIMMED + (1 - _DIMMED) * (share > 0)) * (1 - 0.6 * share)
        drawn = lit + 0.6 * share * hot
        top, left = self.target[0] * height // rows, self.target[1] * width // columns
        bottom = (self.target[0] + 1) * height // rows
        right = (self.target[1] + 1) * width // columns
        line = max(1, height // rows // 8)
        frame = torch.zeros(height, width, dtype=torch.bool)
        frame[top:bottom, left:right] = True
        frame[top + line : bottom - line, left + line : right - line] = False
        drawn[:, frame] = torch.tensor(_FRAME)[:, None]
        return (drawn.clamp(0, 1) * 255).round().to(torch.uint8)


@torch.no_grad()
def heatmap(model: nn.Module, image: Tensor, target: Grid, site: str | None = None) -> Heatmap:
    """The weights of all sources of one target token, through all merges up to a site.

    image: [3, height, width], normalised as the model takes it. target: row and column of a token
    of the image, before the first merge; the target token is the one that holds most of it.
    site: the last merge to follow, by the plan's name; the last of all when omitted.

    FieldError for a model that does not merge, a site without a merge, a merge that no weights
    describe, a target outside of the grid.
    """
    sites: dict[str, Site] = getattr(model, "sites", {})
    if not sites:
        raise FieldError("model", None, "a method and a ratio below 1", "merges nothing")
    site = list(sites)[-1] if site is None else site
    if site not in sites:
        raise FieldError("site", site, choices=[*sites])
    last = list(sites).index(site)
    followed = merges(model, image[None])[: last + 1]
    rows, columns = followed[0].patches
    row, column = target
    if not (0 <= row < rows and 0 <= column < columns):
        allowed = f"rows 0 to {rows - 1} and columns 0 to {columns - 1}"
        raise FieldError("target", target, allowed)
    for at in followed:
        if at.over_patches is None:
            problem = f"merges at {at.site.name} so that no weights say what a slot holds"
            raise FieldError("method", None, "one whose merges have weights", problem)
    assert followed[-1].over_patches is not None
    G = followed[-1].over_patches[0].float().cpu()
    of_target = G[row * columns + column]
    # a token that was dropped is in no slot
    weights = (G[:, int(of_target.argmax())] * of_target.any()).view(rows, columns)
    return Heatmap(weights / weights.sum().clamp_min(_SMALLEST), (row, column))


def beside(image: Tensor, heatmaps: Sequence[Heatmap]) -> Tensor:
    """The pictures of several heatmaps of one image side by side, a white line between them.

    Such as LTM beside a rival, for the same target. image: [3, height, width], values in [0, 1].
    Returns uint8 [3, height, n width + n - 1].
    """
    line = torch.full((3, image.shape[1], 1), 255, dtype=torch.uint8)
    parts = [part for heat in heatmaps for part in (line, heat.picture(image))]
    return torch.cat(parts[1:], dim=2)
