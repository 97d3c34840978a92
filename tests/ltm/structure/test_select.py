"""Which components leave, given what each costs and what it is worth."""

import torch

from ltm.structure.select import best, even_plan, remove, swap, taylor_cost


def test_cross_terms_tell_components_that_cancel() -> None:
    """Of three, the first two always add up to nothing: they go together, the third alone."""
    samples = torch.tensor([[2.0, -2.0, 1.0], [-2.0, 2.0, 1.0]])
    cost = taylor_cost(samples)
    none = torch.zeros(3, dtype=torch.bool)
    torch.testing.assert_close(cost(none), torch.tensor([4.0, 4.0, 1.0]))
    # with the first gone, mean (s_i^2 + 2 s_i s_0) = 4 - 8, and 1 + (2 x 2 - 2 x 2) / 2
    torch.testing.assert_close(
        cost(torch.tensor([True, False, False]))[1:], torch.tensor([-4.0, 1])
    )
    args = (torch.ones(3), torch.zeros(3, dtype=torch.long), torch.zeros(1, dtype=torch.long))
    assert remove(cost, *args, excess=1).tolist() == [True, True, False]


def test_what_is_dear_but_large_leaves_before_what_is_cheap_but_small() -> None:
    worth, macs = torch.tensor([4.0, 3.0, 2.0]), torch.tensor([4.0, 1.0, 1.0])
    one = torch.ones(1, dtype=torch.long)
    kept = remove(lambda _: worth, macs, torch.zeros(3, dtype=torch.long), one, excess=3.5)
    assert kept.tolist() == [False, True, True]


def test_a_part_keeps_its_last_component_and_what_still_fits_comes_back() -> None:
    worth, macs = torch.tensor([1.0, 1.1, 9.0, 20.0]), torch.tensor([1.0, 1.0, 4.0, 4.0])
    part, least = torch.tensor([0, 0, 1, 1]), torch.ones(2, dtype=torch.long)
    kept = remove(lambda _: worth, macs, part, least, excess=4.5)
    assert kept.tolist() == [False, True, False, True]
    kept = remove(lambda _: worth, macs, part, least, excess=4.0)
    assert kept.tolist() == [True, True, False, True]  # the first one fits again
    assert remove(lambda _: worth, macs, part, least, excess=99).tolist() == [
        False,
        True,
        False,
        True,
    ]


def test_drop_and_grow() -> None:
    kept = torch.tensor([True, True, True, False, False])
    worth, promise = torch.tensor([3.0, 1, 2, 0, 0]), torch.tensor([9.0, 9, 9, 1, 2])
    assert swap(kept, worth, promise, 1).tolist() == [True, False, True, False, True]
    assert swap(kept, worth, promise, 9).tolist() == [True, False, False, True, True]
    assert swap(kept, worth, promise, 0).tolist() == kept.tolist()
    assert best(worth, 2).tolist() == [True, False, True, False, False]


def test_units_make_up_for_the_rounding_of_heads() -> None:
    sizes, macs = {"attn": 3, "mlp": 100}, {"attn": 10.0, "mlp": 1.0}
    plan = even_plan(sizes, macs, ["attn"], excess=26)  # 0.8 of 130
    assert plan == {"attn": 2, "mlp": 84}
    assert even_plan(sizes, macs, ["attn"], excess=0) == sizes
