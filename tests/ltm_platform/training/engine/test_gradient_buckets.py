"""Gradients that travel between ranks in buckets while backward computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from ltm_platform.training.engine.gradient_buckets import BUCKET_BYTES

from .. import scenarios

if TYPE_CHECKING:
    from ..rank_pool import RankPool


def test_gradients_travel_in_several_buckets(ranks: RankPool) -> None:
    (alone,), both = ranks.run(1, scenarios.buckets), ranks.run(2, scenarios.buckets)
    assert sum(weight.nbytes for weight in alone["end"].values()) > 2 * BUCKET_BYTES
    for one in both:
        # but for the bound, whose clusters know no float noise
        losses = [torch.tensor(seen["losses"])[:, :2] for seen in (one, alone)]
        torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one["end"], alone["end"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("workers", [1, 2])
def test_weights_without_gradient_decay_like_all(ranks: RankPool, workers: int) -> None:
    seen = ranks.run(workers, scenarios.buckets)[0]
    start, end = (seen[when]["method.masks.192.project.weight"] for when in ("start", "end"))
    assert end.norm() < start.norm()
