"""K-Medoids: centres that are tokens, by the attention of the block before."""

from itertools import pairwise

import pytest
import torch

import ltm
from ltm.methods.clustering import distances
from ltm.methods.kmedoids import k_medoids

from .written_out import CLASSY, POOLED, State, assert_agrees, create


def reduce(s: State) -> None:
    """The formulas of arXiv 2110.03860, in loops over tokens."""
    if s.kept is None:
        return
    kept, tokens = s.kept, list(s.tokens)
    a = s.before.sum((0, 1))[s.prefix :].tolist()
    N = len(tokens)
    d = [[float((x - y).norm()) for y in tokens] for x in tokens]
    centres = sorted(range(N), key=lambda i: -a[i])[:kept]

    def assigned() -> list[list[int]]:
        nearest = [min(range(kept), key=lambda c: d[i][centres[c]]) for i in range(N)]
        return [[i for i in range(N) if nearest[i] == c] for c in range(kept)]

    for _ in range(3):
        centres = [min(m, key=lambda i: a[i] * sum(d[i])) if m else 0 for m in assigned()]
    s.replace(assigned(), [tokens[c] for c in centres])


@pytest.mark.parametrize("backbone", [CLASSY, POOLED])
@pytest.mark.parametrize("ratio", [0.7, 0.4])
def test_the_network_is_that_of_the_formulas(backbone: str, ratio: float) -> None:
    model, images = create(backbone, "kmedoids", compression_ratio=ratio)
    assert_agrees(model, images, reduce, at_input=True, proportional=False, in_order=True)


def test_three_rounds_move_the_centres() -> None:
    torch.manual_seed(0)
    distance, received = distances(torch.randn(2, 30, 4)), torch.rand(2, 30)
    centres = [k_medoids(distance, received, 6, rounds).centre for rounds in (1, 2, 3)]
    assert all((a != b).any() for a, b in pairwise(centres))


def test_a_cluster_without_members_takes_the_first_token() -> None:
    """Tokens 1 and 2 are the same, and both are centres at first: one of them has no member."""
    x = torch.tensor([[[9.0], [0.0], [0.0], [4.0]]])
    merge = k_medoids(distances(x), torch.tensor([[0.1, 0.9, 0.8, 0.2]]), 2, 1)
    assert merge.centre.tolist() == [[0, 0]]
    assert merge(x).flatten().tolist() == [9, 9]
    assert merge.sizes().tolist() == [[4, 0]]
    assert merge.weights()[0, :, 1].tolist() == [1, 0, 0, 0]


def test_rows_that_are_merged_alike() -> None:
    x = torch.randn(2, 8, 3)
    merge = k_medoids(distances(x), torch.rand(2, 8), 3, 3)
    each = merge.repeated(2)
    rows = x.repeat_interleave(2, 0)
    torch.testing.assert_close(each(rows), merge(x).repeat_interleave(2, 0))
    torch.testing.assert_close(each.weights(), merge.weights().repeat_interleave(2, 0))


def test_the_first_block_has_nothing_to_look_at() -> None:
    with pytest.raises(ltm.FieldError, match=r"blocks\.0"):
        ltm.create_model(POOLED, "kmedoids", plan={"blocks.0": 9})
