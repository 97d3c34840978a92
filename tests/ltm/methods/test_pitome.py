"""PiToMe: energy, and who is protected."""

import math

import torch

from ltm.methods.pitome import energy, merge_by_energy

from .conftest import on_circle


def test_pitome_energy() -> None:
    """Tokens at 0 and 60 degrees, margin 0.9: f(1) = 1 and f(0.5) = exp(-0.4) - 1."""
    expected = (1 + math.exp(0.5 - 0.9) - 1) / 2
    torch.testing.assert_close(energy(on_circle(0, 60), 0.9), torch.full((1, 2), expected))
    expected = (1 + 0.5) / 2  # above the margin it is the cosine
    torch.testing.assert_close(energy(on_circle(0, 60), 0.4), torch.full((1, 2), expected))


def test_pitome_protects_what_is_alone() -> None:
    # a group of four near 0 degrees, and two that are alone
    metric = on_circle(0, 90, 2, 3, 200, 5)
    merge = merge_by_energy(metric, torch.ones(1, 6), 4, margin=0.9, alpha=1.0)
    groups = [set((merge.slot[0] == s).nonzero().flatten().tolist()) for s in range(4)]
    assert {1} in groups
    assert {4} in groups
    assert sorted(map(len, groups)) in ([1, 1, 2, 2], [1, 1, 1, 3])
