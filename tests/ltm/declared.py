"""What a merge says of itself, checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from ltm.interfaces import SiteInput
    from ltm.merge import Merge


def assert_declared(given: SiteInput, merge: Merge) -> None:
    """Shapes, and all that `Merge.convex`, `linear`, `keeps_mass` and `present` promise."""
    B, N, D = given.tokens.shape
    P = merge.slots
    y, sizes, G = merge(given.tokens), merge.sizes(given.mass), merge.weights()
    assert y.shape == (B, P, D)
    assert y.isfinite().all()
    assert sizes.shape == (B, P)
    assert (sizes >= 0).all()
    assert merge.unmerge(y).shape == (B, N, D)
    present = torch.ones(B, P, dtype=torch.bool) if merge.present is None else merge.present
    assert present.any(1).all(), "an image without tokens"
    assert (sizes[~present] == 0).all()
    if merge.keeps_mass:
        mass = torch.ones(B, N) if given.mass is None else given.mass
        torch.testing.assert_close(sizes.sum(1), mass.sum(1), rtol=1e-4, atol=1e-4)
    if G is None:
        assert not merge.linear
        return
    assert G.shape == (B, N, P)
    if merge.convex:
        assert (G >= 0).all()
        torch.testing.assert_close(G.sum(1), present.float())
    if merge.linear:
        torch.testing.assert_close(y, G.transpose(1, 2) @ given.tokens, atol=1e-4, rtol=1e-4)
