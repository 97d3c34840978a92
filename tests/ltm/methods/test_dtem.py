"""DTEM: a matching that is soft in training."""

import math

import torch

from ltm.methods.dtem import merge_softly
from ltm.methods.matching import merge_pairs
from ltm.methods.relaxed import LEFT_OVER

from .conftest import SIX, on_circle


def test_dtem_is_tomes_matching_in_the_limit() -> None:
    mass = torch.ones(1, 6)
    soft = merge_softly(SIX, mass, 2, tau=1e-4)
    torch.testing.assert_close(
        soft.mass, torch.tensor([[LEFT_OVER, 2, 1, 2, LEFT_OVER, 1]]), atol=1e-3, rtol=0
    )
    x = torch.arange(6.0).view(1, 6, 1)
    hard = merge_pairs(SIX, mass, 4)
    torch.testing.assert_close(soft(x)[:, [1, 2, 3, 5]], hard(x), atol=1e-3, rtol=0)


def test_dtem_moves_the_part_of_a_token_that_its_score_says() -> None:
    """Two A tokens, 10 and 60 degrees from the only B token, of which one should leave."""
    near, far = math.cos(math.radians(10)), math.cos(math.radians(60))
    mass = torch.tensor([[2.0, 1.0, 3.0]])
    merge = merge_softly(on_circle(10, 0, 60), mass, 1, tau=0.1)
    # the bound is half-way between the two scores
    goes = 1 / (1 + math.exp(-(near - far) / 2 / 0.1))
    stays = 1 - goes
    expected = [2 * stays, 1 + 2 * goes + 3 * stays, 3 * goes]
    torch.testing.assert_close(merge.mass, torch.tensor([expected]), atol=1e-4, rtol=0)
    x = torch.tensor([[[1.0], [10.0], [100.0]]])
    taken = (10 + 2 * goes * 1 + 3 * stays * 100) / expected[1]
    torch.testing.assert_close(merge(x).flatten(), torch.tensor([1.0, taken, 100.0]))


def test_dtem_learns_what_to_merge() -> None:
    embedding = SIX.clone().requires_grad_()
    merge = merge_softly(embedding, torch.ones(1, 6), 2, tau=0.1)
    merge(torch.randn(1, 6, 3)).square().sum().backward()
    assert embedding.grad is not None
    assert embedding.grad.isfinite().all()
    assert embedding.grad.abs().sum() > 0
