"""Bipartite matching by the rule of ToMe, repeated, and by the rule for grids."""

import pytest
import torch
from torch.nn import functional as F

from ltm.methods.cubistmerge import merge_neighbours
from ltm.methods.matching import match_bipartite, merge_pairs, reduce_grid, reduce_tokens


def partners(slot: torch.Tensor) -> list[set[int]]:
    """The tokens of each slot of one image."""
    return [set((slot == s).nonzero().flatten().tolist()) for s in range(int(slot.max()) + 1)]


def test_the_most_similar_pairs_merge() -> None:
    # on a circle: tokens 0 and 3 are closest, then 4 and 1; 2 is alone
    angles = torch.tensor([0.00, 1.05, 3.00, 0.01, 1.00, 2.00])
    metric = torch.stack([angles.cos(), angles.sin()], -1)[None]
    assert partners(match_bipartite(metric, 5)[0]) == [{1}, {2}, {0, 3}, {4}, {5}]
    assert partners(match_bipartite(metric, 4)[0]) == [{1, 4}, {2}, {0, 3}, {5}]
    assert partners(match_bipartite(metric, 6)[0]) == [{i} for i in range(6)]


def test_tokens_merge_only_across_the_two_halves() -> None:
    torch.manual_seed(0)
    metric = F.normalize(torch.randn(4, 20, 8), dim=-1)
    for slot in match_bipartite(metric, 10):
        for group in partners(slot):
            assert sum(token % 2 for token in group) <= 1
    with pytest.raises(AssertionError, match="cannot merge in one matching"):
        match_bipartite(metric, 9)


def test_several_matchings_reach_any_number() -> None:
    torch.manual_seed(0)
    metric = torch.randn(3, 20, 8)
    for slots in (20, 13, 7, 2, 1):
        slot = reduce_tokens(metric, torch.ones(3, 20), slots, merge_pairs).slot
        assert [sorted(set(row.tolist())) for row in slot] == [list(range(slots))] * 3


@pytest.mark.parametrize("kept", [(6, 6), (5, 6), (6, 4), (4, 3), (2, 1)])
def test_a_grid_stays_a_grid(kept: tuple[int, int]) -> None:
    torch.manual_seed(0)
    slot = reduce_grid(torch.randn(2, 36, 8), torch.ones(2, 36), (6, 6), kept, merge_pairs).slot
    rows, columns = kept
    assert sorted(set(slot.flatten().tolist())) == list(range(rows * columns))
    if rows == 6:  # merged within rows only
        assert (slot.view(2, 6, 6) // columns == torch.arange(6)[:, None]).all()


def test_the_grid_rule_keeps_rows_and_columns() -> None:
    torch.manual_seed(0)
    merge = reduce_grid(torch.randn(2, 24, 8), torch.ones(2, 24), (4, 6), (3, 4), merge_neighbours)
    slot = merge.slot.view(2, 4, 6)
    assert sorted(set(slot.flatten().tolist())) == list(range(12))
    # neighbours alone merge: numbers never fall along a row, nor along a column
    assert ((slot // 4).diff(dim=1) >= 0).all()
    assert ((slot % 4).diff(dim=2) >= 0).all()
