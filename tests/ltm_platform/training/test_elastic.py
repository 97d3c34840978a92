"""Elastic training on several ranks: in some steps nothing merges, and the mask has no gradient.

DDP would refuse the next step; ZeRO would take the gradient of the step before once more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from . import scenarios

if TYPE_CHECKING:
    from .rank_pool import RankPool

STEPS_THAT_MERGE = {
    7: [False, False, True, True, True, False],
    30: [True, False, False, True, True, False],
}


def assert_close(one: dict[str, Any], other: dict[str, Any]) -> None:
    # but for the bound, whose clusters know no float noise
    losses = (torch.tensor(seen["losses"])[:, :2] for seen in (one, other))
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one["weights"], other["weights"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("stage", "offload", "seed"),
    [
        (0, "none", 7),
        (3, "none", 7),
        *(
            pytest.param(*case, seed, marks=pytest.mark.slow)
            for case in ((1, "none"), (2, "none"), (2, "optimizer"), (3, "all"))
            for seed in STEPS_THAT_MERGE
        ),
        pytest.param(0, "none", 30, marks=pytest.mark.slow),
    ],
)
def test_steps_in_which_nothing_merges_break_no_training(
    ranks: RankPool, stage: int, offload: str, seed: int
) -> None:
    (alone,) = ranks.run(1, scenarios.elastic, 0, seed)
    both = ranks.run(2, scenarios.elastic, stage, seed, offload)
    for seen in both:
        assert seen["merged"] == STEPS_THAT_MERGE[seed]
    assert_close(both[0], alone)
    if stage < 3:
        for name, weight in both[0]["end"].items():
            assert torch.equal(both[1]["end"][name], weight), name
