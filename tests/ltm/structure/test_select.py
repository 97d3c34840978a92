"""Which components leave, given what each costs and what it is worth."""

from typing import Any

import torch

from ltm.structure.select import best, even_plan, joint, swap


def pruned(**changes: Any) -> list[bool]:
    """Of two heads in two parts and six units in two, by the scores 1 to 8."""
    given: dict[str, Any] = {
        "own": torch.arange(1.0, 9.0),
        "between": torch.eye(2),
        "macs": torch.tensor([4.0, 4.0, 1, 1, 1, 1, 1, 1]),
        "part": torch.tensor([0, 1, 2, 2, 2, 3, 3, 3]),
        "heads": torch.arange(8) < 2,
        "least": torch.tensor([0, 0, 1, 1]),
    }
    return (~joint(**given | changes)).tolist()


def test_the_shares_of_heads_and_units_are_those_of_the_least_cost() -> None:
    units_are_dear, heads_are_dear = (
        torch.diag(torch.tensor([1.0, 9])),
        torch.diag(torch.tensor([9.0, 1])),
    )
    # 4 MACs: one head, 1 x 0.5^2, or four units, 9 x 0.67^2
    assert pruned(between=units_are_dear, excess=4) == [True, False, *[False] * 6]
    assert pruned(between=heads_are_dear, excess=4) == [
        False,
        False,
        True,
        True,
        False,
        True,
        True,
        False,
    ]
    # what both classes lose together costs so much that one of them leaves alone
    together = torch.tensor([[1.0, 9], [9, 1]])
    assert pruned(between=together, excess=8)[:2] == [True, True]
    assert not any(pruned(between=together, excess=8)[2:])


def test_what_a_part_has_to_keep_is_its_best_and_the_rest_is_as_much_as_there_is() -> None:
    everything = [True, True, True, True, False, True, True, False]
    assert pruned(excess=12) == pruned(excess=99) == everything
    assert pruned(excess=12, own=-torch.arange(1.0, 9.0))[2:] == [
        False,
        True,
        True,
        False,
        True,
        True,
    ]
    assert not any(pruned(excess=0))
    least = torch.tensor([1, 1, 3, 0])
    assert pruned(excess=2, least=least) == [*[False] * 5, True, True, False]


def test_no_more_leaves_than_has_to() -> None:
    """A form that falls with every share has no say in how much leaves."""
    assert sum(pruned(between=torch.diag(torch.tensor([-9.0, -1])), excess=3)) == 1
    assert sum(pruned(between=torch.tensor([[1.0, 0], [0, -1]]), excess=3)) == 3


def test_drop_and_grow() -> None:
    kept = torch.tensor([True, True, True, False, False])
    worth, promise = torch.tensor([3.0, 1, 2, 0, 0]), torch.tensor([9.0, 0, 9, 1, 2])
    assert swap(kept, worth, promise, 0.3).tolist() == [True, False, True, False, True]
    # two die, and one of them has the largest promise of all that are not there
    assert swap(kept, worth, promise, 0.5).tolist() == [True, False, True, False, True]
    assert swap(kept, worth, -promise, 0.3).tolist() == kept.tolist()
    assert swap(kept, worth, promise, 1).tolist() == [True, False, True, False, True]
    assert swap(kept, worth, promise, 0).tolist() == kept.tolist()
    assert best(worth, 2).tolist() == [True, False, True, False, False]


def test_units_make_up_for_the_rounding_of_heads() -> None:
    sizes, macs = {"attn": 3, "mlp": 100}, {"attn": 10.0, "mlp": 1.0}
    plan = even_plan(sizes, macs, ["attn"], excess=26)  # 0.8 of 130
    assert plan == {"attn": 2, "mlp": 84}
    assert even_plan(sizes, macs, ["attn"], excess=0) == sizes
