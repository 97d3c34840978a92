"""ToMe: who merges with whom, by the paper's rule and by the rule for grids."""

import pytest
import torch
from torch.nn import functional as F

import ltm
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


def test_means_are_weighted_by_size_through_all_blocks() -> None:
    """With every token the same, sizes alone tell: they add up to all tokens in the end."""
    model = ltm.create_model("vit_nano_patch4_32", "tome", compression_ratio=0.6)
    assert len(model.plan) == 4  # type: ignore[arg-type]
    mean = sum(model.plan.values()) / 4 / 64  # type: ignore[union-attr]
    assert mean == pytest.approx(0.6, abs=0.01)
    merges = []
    model.method.register_forward_hook(lambda _m, _a, merge: merges.append(merge))  # type: ignore[union-attr]
    with torch.no_grad():
        model(torch.randn(2, 3, 32, 32))
    mass = None
    for merge in merges:
        mass = merge.sizes(mass)
    assert mass is not None
    torch.testing.assert_close(mass.sum(1), torch.full((2,), 64.0))


def test_tome_has_no_parameters() -> None:
    base = ltm.create_model("vit_nano_patch4_32", "none")
    model = ltm.create_model("vit_nano_patch4_32", "tome")
    assert model.state_dict().keys() == base.state_dict().keys()
