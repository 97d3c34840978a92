"""Batch norm over the images of all ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from .. import collectives, scenarios

if TYPE_CHECKING:
    from ..rank_pool import RankPool


def test_batch_norm_over_two_workers_is_that_of_the_whole_batch(ranks: RankPool) -> None:
    (alone,), both = ranks.run(1, scenarios.plain_sync_bn), ranks.run(2, scenarios.sync_bn)
    losses = [torch.tensor(seen["losses"]) for seen in (both[0], alone)]
    torch.testing.assert_close(*losses, rtol=1e-3, atol=1e-4)


def test_workers_with_a_part_of_a_micro_batch_share_its_statistics(ranks: RankPool) -> None:
    (alone,), both = ranks.run(1, scenarios.plain_sync_bn), ranks.run(2, scenarios.shared_bn)
    losses = [torch.tensor(seen["losses"]) for seen in (both[0], alone)]
    torch.testing.assert_close(*losses, rtol=1e-3, atol=1e-4)


def test_groups_of_workers_have_statistics_of_their_own(ranks: RankPool) -> None:
    for seen in ranks.run(4, collectives.norm_groups):
        torch.testing.assert_close(seen["shared"], seen["plain"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["torch", "timm"])
@pytest.mark.parametrize("rank", [0, 1])
def test_synchronised_layers_equal_torchs_on_the_whole_batch(
    ranks: RankPool, kind: str, rank: int
) -> None:
    seen = ranks.run(2, collectives.norm_layers)[rank]
    out, grad, scored, weight_grads, state = seen[f"{kind} all"]
    first, last = seen["share"]
    expected = [out[first:last], grad[first:last], scored, weight_grads, state]
    torch.testing.assert_close(seen[f"{kind} ranks"], expected, rtol=1e-4, atol=1e-5)
