"""SPViT: selectors, and the package."""

from typing import TYPE_CHECKING

import torch

from ltm.methods.relaxed import LEFT_OVER
from ltm.methods.spvit import drop_in_row, package, package_softly

if TYPE_CHECKING:
    from ltm.merge import Assigned


def test_spvit_packs_what_it_drops() -> None:
    score = torch.tensor([[0.9, 0.2, 0.6, 0.4]])
    x = torch.tensor([[[1.0], [2.0], [3.0], [4.0]]])
    merge = package(score, 3, first=True)
    packed = (0.2 * 2 + 0.4 * 4) / 0.6
    torch.testing.assert_close(merge(x).flatten(), torch.tensor([1.0, 3.0, packed]))
    # the last token is a package by now, and stays one: with a score of 1
    again = package(score, 2, first=False)
    packed = (0.2 * 2 + 0.6 * 3 + 1 * 4) / 1.8
    torch.testing.assert_close(again(x).flatten(), torch.tensor([1.0, packed]))


def test_spvit_in_training_is_what_it_is_outside() -> None:
    score = torch.tensor([[0.9, 0.2, 0.6, 0.4]])
    keep = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    x = torch.tensor([[[1.0], [2.0], [3.0], [4.0]]])
    soft = package_softly(score, keep, torch.ones(1, 4), first=True)
    torch.testing.assert_close(soft.mass, torch.tensor([[1, LEFT_OVER, 1, LEFT_OVER, 1]]))
    hard = package(score, 3, first=True)
    torch.testing.assert_close(soft(x)[:, [0, 2, 4]], hard(x))


def test_spvit_decides_hard_and_learns_as_if_it_were_soft() -> None:
    """d package / d keep_j = -s_j (x_j - package) / sum of the scores in it."""
    score = torch.tensor([[0.9, 0.2, 0.6, 0.4]])
    keep = torch.tensor([[1.0, 0.0, 1.0, 0.0]], requires_grad=True)
    x = torch.tensor([[[1.0], [2.0], [3.0], [4.0]]])
    merge = package_softly(score, keep, torch.ones(1, 4), first=True)
    packed = (0.2 * 2 + 0.4 * 4) / 0.6
    (by_package,) = torch.autograd.grad(merge(x)[0, 4, 0], keep, retain_graph=True)
    expected = -score * (x[..., 0] - packed) / 0.6
    torch.testing.assert_close(by_package, expected)
    (by_mass,) = torch.autograd.grad(merge.mass[0, :4].sum(), keep)
    torch.testing.assert_close(by_mass, torch.full((1, 4), 1 - LEFT_OVER))


def test_spvit_packs_later_what_nothing_was_packed_with_before() -> None:
    score = torch.tensor([[0.9, 0.2, 0.6]])
    x = torch.tensor([[[1.0], [2.0], [3.0]]])
    empty = package_softly(score, torch.ones(1, 3), torch.ones(1, 3), first=True)
    torch.testing.assert_close(empty.mass, torch.tensor([[1, 1, 1, LEFT_OVER]]))
    score, present = torch.tensor([[0.9, 0.2, 0.6, 0.5]]), empty.mass
    keep = torch.tensor([[1.0, 0.0, 1.0, 1.0]])
    merge = package_softly(score, keep, present, first=False)
    torch.testing.assert_close(merge.mass, torch.tensor([[1, LEFT_OVER, 1, 1]]))
    torch.testing.assert_close(merge(empty(x))[0, 3], x[0, 1], atol=1e-4, rtol=0)
    # with a package there already, that one counts as one token of score 1
    merge = package_softly(score, keep, torch.ones(1, 4), first=False)
    y = torch.tensor([[[1.0], [2.0], [3.0], [5.0]]])
    torch.testing.assert_close(merge(y)[0, 3, 0], torch.tensor((0.2 * 2 + 5) / 1.2))


def test_spvit_on_a_grid_joins_the_kept_one_before() -> None:
    merge: Assigned = drop_in_row(torch.tensor([[[0.1], [0.9], [0.3], [0.8]]]), torch.ones(1, 4), 2)
    assert merge.slot.tolist() == [[0, 0, 0, 1]]
    torch.testing.assert_close(merge.weight, torch.tensor([[0.1, 0.9, 0.3, 1.3]]) / 1.3)
