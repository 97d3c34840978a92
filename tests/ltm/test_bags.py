"""Weighted sums of rows against a plain sum, with all derivatives that torch can take."""

from __future__ import annotations

import pytest
import torch
from torch.func import hessian, jacfwd, jacrev, vmap

from ltm.merge._bag import weighted_bags

SOURCE = torch.tensor([4, 0, 3, 3, 1, 5])  # a row in two bags, and one in none
BAG = torch.tensor([0, 0, 1, 3, 3, 3])  # an empty bag, too
ROWS, WEIGHT = torch.randn(6, 3, dtype=torch.float64), torch.rand(6, dtype=torch.float64)

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")


def bags(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return weighted_bags(rows, weight, SOURCE, BAG, 4)


def plain(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return torch.zeros(4, 3, dtype=rows.dtype).index_add(0, BAG, rows[SOURCE] * weight[:, None])


def test_sums_and_their_first_and_second_derivatives() -> None:
    torch.testing.assert_close(bags(ROWS, WEIGHT), plain(ROWS, WEIGHT))
    given = ROWS.clone().requires_grad_(), WEIGHT.clone().requires_grad_()
    assert torch.autograd.gradcheck(bags, given, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(bags, given)


def test_transforms_of_functions() -> None:
    many = torch.randn(5, 6, 3, dtype=torch.float64)
    torch.testing.assert_close(
        vmap(bags, (0, None))(many, WEIGHT), vmap(plain, (0, None))(many, WEIGHT)
    )
    for transform in (jacrev, jacfwd):
        for argnum in (0, 1):
            one, other = (transform(f, argnum)(ROWS, WEIGHT) for f in (bags, plain))
            torch.testing.assert_close(one, other)
    one, other = (
        hessian(lambda rows, f=f: f(rows, WEIGHT).pow(3).sum())(ROWS) for f in (bags, plain)
    )
    torch.testing.assert_close(one, other)
