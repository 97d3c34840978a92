"""CubistMerge: neighbours merge, and the value farthest from 0 stays."""

import torch

from ltm.merge import MaxMagnitude
from ltm.methods.cubistmerge import merge_neighbours

from .conftest import on_circle


def test_cubistmerge_joins_neighbours_and_keeps_their_order() -> None:
    merge = merge_neighbours(on_circle(0, 50, 55, 120, 124, 180), torch.ones(1, 6), 4)
    assert merge.slot.tolist() == [[0, 1, 1, 2, 2, 3]]
    x = torch.tensor([[[1.0, -5.0], [-2.0, 3.0], [1.5, -3.5]]])
    most = MaxMagnitude.normalised(torch.tensor([[0, 1, 1]]), torch.ones(1, 3), 2)
    assert most(x).tolist() == [[[1.0, -5.0], [-2.0, -3.5]]]


def test_the_value_farthest_from_0_is_found_among_any_number_of_tokens() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 7, 5, requires_grad=True)
    slot = torch.tensor([[2, 0, 2, 1, 2, 0, 2], [0, 1, 1, 1, 2, 2, 0]])
    merged = MaxMagnitude.normalised(slot, torch.ones(2, 7), 3)(x)
    merged.sum().backward()
    assert x.grad is not None
    for image in range(2):
        for s in range(3):
            tokens = (slot[image] == s).nonzero().flatten()
            farthest = tokens[x[image, tokens].abs().argmax(0)]
            expected = x[image, farthest, torch.arange(5)]
            torch.testing.assert_close(merged[image, s], expected)
            assert (x.grad[image, farthest, torch.arange(5)] == 1).all()
    assert x.grad.sum() == merged.numel()
