"""What a network did with the tokens of images, and how alike two networks are in that.

Everything but features comes from `ltm.merges`, for all methods and backbones alike.

Legend: B images, S tokens of the image before the first merge, P slots, D channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from ltm.errors import FieldError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ltm.interfaces import Grid
    from ltm.views.maps import SiteMerge

FATES = ("kept", "merged", "dropped")
"""What became of a token; `fates` has numbers of these."""
FEWEST = 4
"""Images that `cka` without bias needs."""
_SMALLEST = 1e-12  # of a sum
_HALF = 0.5 + 1e-6  # two tokens in equal parts are merged, in any precision
_DIMMED = 0.15  # brightness of a dropped token


def survival(found: Sequence[SiteMerge]) -> list[Tensor]:
    """How much of the tokens that are left is each token of the image, after each merge: [B, S].

    A slot is 1 token, which those that it is made of share by their weights. So a token has 1 as
    long as it stays as it is, 0 once it was dropped, 1/2 in a slot of two in equal parts; and the
    sum over an image is the number of slots. What a network's own downsampling takes away counts
    as kept.

    FieldError for a merge that no weights describe.
    """
    scale, left = 1.0, 0
    shares: list[Tensor] = []
    for at in found:
        tiles = at.site.tiles[0] * at.site.tiles[1]
        arrive = at.site.tokens * tiles
        scale *= (left or arrive) / arrive
        left = at.site.slots * tiles
        shares.append(scale * _parts(at).sum(2))
    return shares


def depth(found: Sequence[SiteMerge], places: Sequence[str]) -> Tensor:
    """How many places of a network each token of the image survives: [B, rows, columns].

    The sum of its `survival` after each of them: between 0 and their number, a part where tokens
    share a slot. With as many slots left everywhere, two methods have the same mean.

    found: at least one merge. places: all where the network can merge, in order, such as its
    blocks (`site_names` of the model).
    """
    after = {at.site.name: share for at, share in zip(found, survival(found), strict=True)}
    share = torch.ones_like(next(iter(after.values())))
    total = torch.zeros_like(share)
    for place in places:
        share = after.get(place, share)
        total = total + share
    return total.unflatten(1, found[0].patches)


def groups(found: Sequence[SiteMerge]) -> Tensor:
    """The slot that holds most of each token after the last merge, -1 for none: [B, S]."""
    over = _weights(found[-1]).abs()
    return over.argmax(2).where(over.amax(2) > 0, -1)


def fates(found: Sequence[SiteMerge]) -> Tensor:
    """What became of each token after the last merge, a number of `FATES`: [B, S].

    Kept: it is more than half of a slot. Dropped: it is in none. Merged: all others.
    """
    merged = torch.full_like(groups(found), FATES.index("merged"))
    gone = merged.where(groups(found) >= 0, FATES.index("dropped"))
    return gone.where(survival(found)[-1] <= _HALF, FATES.index("kept"))


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of two sets of tokens [B, S] bool: [B], NaN where both are empty."""
    return (a & b).sum(1) / (a | b).sum(1)


def nmi(a: Tensor, b: Tensor) -> Tensor:
    """Mutual information of two divisions of the same tokens, over the mean of their entropies.

    a, b: [B, S] integer, the group of each token, of any numbers from -1 on; the tokens of -1 are a
    group as others are. Returns [B], between 0 and 1; 1 where both are one group.
    """
    tokens = a.shape[1]
    one, other = (F.one_hot(x + 1).double() for x in (a, b))
    joint = one.transpose(1, 2) @ other / tokens
    each = (_entropy(joint.sum(2)), _entropy(joint.sum(1)))
    mean = (each[0] + each[1]) / 2
    shared = each[0] + each[1] - _entropy(joint.flatten(1))
    return torch.where(mean > _SMALLEST, shared / mean.clamp_min(_SMALLEST), 1.0).clamp(0, 1)


def cka(X: Tensor, Y: Tensor, *, debiased: bool = True) -> float:
    """Linear centred kernel alignment (arXiv 1905.00414) of features of the same images.

    X, Y: [B, D] and [B, D'], any widths. 1 for features that are equal but for rotation, scale and
    shift.

    debiased: by the unbiased estimate of HSIC (arXiv 2010.15327, equation 3), whose mean over
        images is 0 for features that know nothing of each other, and which may be slightly
        negative; the plain one nears 1 where there are fewer images than channels. Needs
        `FEWEST` images.

    NaN with fewer images, and where features are the same for all.
    """
    if debiased and len(X) < FEWEST:
        return float("nan")
    K, L = (_centred(x.double(), debiased) for x in (X, Y))
    return float((K * L).sum() / ((K * K).sum() * (L * L).sum()).sqrt())


def picture(image: Tensor, fate: Tensor, group: Tensor, grid: Grid) -> Tensor:
    """An image [3, height, width], values in [0, 1], as the tokens that are left of it.

    Kept tokens are as they were, merged ones have the mean colour of their group, dropped ones are
    dark. fate, group: [S], see `fates` and `groups`. grid: rows and columns of tokens. Returns
    uint8 [3, height, width].
    """
    size = image.shape[-2:]
    colours = F.adaptive_avg_pool2d(image, grid).flatten(1)
    member = F.one_hot(group + 1).to(colours.dtype)
    of_group = (colours @ member / member.sum(0).clamp_min(1))[:, group + 1]
    flat = F.interpolate(of_group.unflatten(1, grid)[None], size, mode="nearest")[0]
    became = F.interpolate(fate.view(1, 1, *grid).float(), size, mode="nearest")[0]
    drawn = flat.where(became == FATES.index("merged"), image)
    drawn = (drawn * _DIMMED).where(became == FATES.index("dropped"), drawn)
    return (drawn.clamp(0, 1) * 255).round().to(torch.uint8)


def _weights(at: SiteMerge) -> Tensor:
    if at.over_patches is None:
        problem = f"merges at {at.site.name} so that no weights say what a slot holds"
        raise FieldError("method", None, "one whose merges have weights", problem)
    return at.over_patches


def _parts(at: SiteMerge) -> Tensor:
    """What part of each slot is each token: [B, S, P], columns sum to 1, or 0 of padding."""
    size = _weights(at).abs()
    return size / size.sum(1, keepdim=True).clamp_min(_SMALLEST)


def _entropy(p: Tensor) -> Tensor:
    return -torch.xlogy(p, p).sum(1)


def _centred(X: Tensor, debiased: bool) -> Tensor:
    """Products of all pairs of images, [B, B], whose rows and columns have the mean 0."""
    X = X - X.mean(0)
    K = X @ X.T
    if not debiased:
        return K
    n = len(K)
    K = K.fill_diagonal_(0)
    rows = K.sum(1) / (n - 2)
    K = K - rows - rows[:, None] + K.sum() / ((n - 1) * (n - 2))
    return K.fill_diagonal_(0)
