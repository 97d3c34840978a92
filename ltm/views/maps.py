"""What every merge of a forward pass did, as maps over the tokens of the image.

Legend: B images, S tokens of the image before the first merge, P slots of the whole image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from ltm.errors import FieldError
from ltm.flops import unwrapped
from ltm.modes import evaluating

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ltm.interfaces import Grid, Site, SiteInput
    from ltm.merge import Merge


@dataclass(frozen=True)
class SiteMerge:
    """One merge of a forward pass.

    site: where, and what arrived. merge: what the method decided there, see `ltm.Merge`; each of
    the windows that an image is cut into (`site.tiles`) merges on its own.
    patches: rows and columns of the image's tokens before the first merge.
    over_patches: [B, S, P], what part of each slot came from each of them, through all merges so
        far, in the order of the image; where a slot is a mean, its column sums to 1. None as soon
        as no weights say what a slot is made of.
    """

    site: Site
    merge: Merge
    patches: Grid
    over_patches: Tensor | None


@torch.no_grad()
def merges(model: nn.Module, images: Tensor) -> list[SiteMerge]:
    """Every merge of a forward pass in evaluation mode, in its order; none at ratio 1.

    images: [B, 3, height, width], normalised as the model takes it.

    FieldError for a model without a method, and for images that it does not take.
    """
    network: Any = unwrapped(model)
    if not hasattr(network, "sites"):
        allowed = "one that ltm.patch or ltm.create_model gave a method that reduces tokens"
        kind = type(network).__name__
        raise FieldError("model", kind, allowed, f"is a {kind}, whose tokens do not merge")
    found: list[SiteMerge] = []
    for site, merge in _noted(network, images):
        if not found:
            assert site.grid is not None
            patches = site.grid[0] * site.tiles[0], site.grid[1] * site.tiles[1]
            over = torch.eye(patches[0] * patches[1], device=images.device)[None]
            before: Tensor | None = over
            lies_on: Grid | None = patches
        comes_from, goes_to = grids_of(site)
        mask = merge.weights()
        if before is not None and mask is not None:
            mask = _over_image(mask, site)
            before = before.to(mask.dtype)
            if lies_on is not None and comes_from is not None and lies_on != comes_from:
                before = before @ _resampling(lies_on, comes_from).to(mask)
            before = before @ mask
        else:
            before = None
        lies_on = goes_to
        found.append(SiteMerge(site, merge, patches, before))
    return found


def _noted(model: Any, images: Tensor) -> list[tuple[Site, Merge]]:
    seen: list[tuple[Site, Merge]] = []

    def note(_module: nn.Module, args: tuple[SiteInput], merge: Merge) -> None:
        seen.append((args[0].site, merge))

    hook = model.method.register_forward_hook(note)
    try:
        with evaluating(model):
            model(images)
    finally:
        hook.remove()
    return seen


def grids_of(site: Site) -> tuple[Grid | None, Grid | None]:
    """The grids of the whole image before and after a site; None where tokens lie on none."""
    (down, across), before, after = site.tiles, site.grid, site.kept
    return (
        None if before is None else (before[0] * down, before[1] * across),
        None if isinstance(after, int) else (after[0] * down, after[1] * across),
    )


def _over_image(G: Tensor, site: Site) -> Tensor:
    """The masks of all tiles of all images, [B x tiles, N, P'], as one an image: [B, N', P]."""
    if site.tiles == (1, 1):
        return G
    assert site.grid is not None
    assert not isinstance(site.kept, int)
    source, slot = (_places(site.tiles, grid).to(G.device) for grid in (site.grid, site.kept))
    tiles = G.unflatten(0, (-1, len(source)))
    whole = G.new_zeros(len(tiles), source.numel(), slot.numel())
    whole[:, source[:, :, None], slot[:, None, :]] = tiles
    return whole


def _places(tiles: Grid, grid: Grid) -> Tensor:
    """The number of each token of each tile in the raster of the image: [tiles, tokens]."""
    (down, across), (h, w) = tiles, grid
    raster = torch.arange(down * h * across * w).view(down, h, across, w)
    return raster.transpose(1, 2).reshape(down * across, h * w)


def _resampling(before: Grid, after: Grid) -> Tensor:
    """How tokens of one grid make those of another over the same area: [before, after]."""
    tokens = before[0] * before[1]
    each = torch.eye(tokens).view(tokens, 1, *before)
    return F.interpolate(each, after, mode="area").flatten(1)
