"""LTMP: merge, then prune, by learned thresholds."""

import pytest
import torch

from ltm.methods.ltmp import Thresholds, relative_macs, threshold_softly, threshold_to
from ltm.methods.relaxed import LEFT_OVER

from .conftest import SIX


def test_ltmp_masks_in_training_what_it_removes() -> None:
    thresholds = Thresholds()
    torch.nn.init.constant_(thresholds.merge.theta, 0.99)  # 0 and 3, 1 degree apart; 4 and 1, 3
    torch.nn.init.constant_(thresholds.prune.theta, 0.1)
    received = torch.tensor([[0.2, 0.2, 0.05, 0.2, 0.2, 0.15]])
    merge = threshold_softly(SIX, received, torch.ones(1, 6), thresholds)
    gone = LEFT_OVER
    torch.testing.assert_close(merge.mass, torch.tensor([[gone, 2, gone, 2, gone, 1]]))
    x = torch.arange(6.0).view(1, 6, 1)
    assert merge(x).flatten().tolist() == pytest.approx([0, 2.5, 2, 1.5, 4, 5], abs=1e-5)
    merge.mass.sum().backward()
    assert thresholds.prune.theta.grad is not None
    assert thresholds.prune.theta.grad < 0  # a higher threshold leaves less


def test_ltmp_merges_first_and_prunes_then() -> None:
    thresholds = Thresholds()
    torch.nn.init.constant_(thresholds.merge.theta, 0.9999 - 1e-2)
    torch.nn.init.constant_(thresholds.prune.theta, 0.1)
    received = torch.tensor([[0.2, 0.2, 0.05, 0.2, 0.2, 0.15]])
    x = torch.arange(6.0).view(1, 6, 1)
    ones = torch.ones(1, 6)
    with torch.no_grad():
        three = threshold_to(SIX, received, ones, 3, thresholds)
    # 0 joins 3, 4 joins 1, and 2, which nobody attends to, is dropped
    torch.testing.assert_close(three(x).flatten(), torch.tensor([2.5, 1.5, 5.0]))


def test_ltmp_counts_what_it_saves() -> None:
    assert float(relative_macs(torch.ones(4), 64, 64)) == pytest.approx(1)
    # one block, no attention products to speak of: 4 of 12 parts before the merge, 8 after it
    half = float(relative_macs(torch.tensor([0.5]), 1, 10**6))
    assert half == pytest.approx((4 + 8 * 0.5) / 12, rel=1e-4)
