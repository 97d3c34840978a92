"""Hard decisions with soft gradients."""

import torch

from ltm.methods.relaxed import Threshold


def test_a_threshold_is_hard_forward_and_a_sigmoid_backward() -> None:
    threshold = Threshold(0.9, 0.1)
    values = torch.tensor([0.95, 0.7])
    out = threshold(values)
    torch.testing.assert_close(out, torch.tensor([1.0, 0.0]))
    out.sum().backward()
    s = torch.sigmoid((values - 0.9) / 0.1)
    expected = -(s * (1 - s) / 0.1).sum()
    assert threshold.theta.grad is not None
    torch.testing.assert_close(threshold.theta.grad, expected[None])
