"""MCTF: both directions, three criteria, the merged map, and the order afterwards."""

from typing import Any

import pytest
import torch
from torch import Tensor

import ltm
from ltm.interfaces import Site, SiteInput
from ltm.methods import build_method
from ltm.methods.mctf import match_both_ways

from .written_out import CLASSY, POOLED, State, assert_agrees, create


def fuse(s: State) -> None:
    """The formulas of section 3 of arXiv 2403.10030, in loops over tokens."""
    while s.kept is not None and len(s.tokens) > s.kept:
        _fuse_once(s, min(len(s.tokens) // 2, len(s.tokens) - s.kept))


def _fuse_once(s: State, r: int) -> None:
    T, p = len(s.x), s.prefix
    received = s.map.mean((0, 1))
    info, size = 1 / received, 1 / s.sizes
    info, size = info / info.max(), size / size.max()
    unit = [x / x.norm() for x in s.x]
    A, B = ([n for n in range(p, T) if n % 2 == odd] for odd in (0, 1))
    edge: dict[tuple[int, int], float] = {}
    for a in A:
        for b in B:
            like = (1 + unit[a] @ unit[b]) / 2
            edge[a, b] = float(
                like * (info[a] * info[b]) ** (1 / 20) * (size[a] * size[b]) ** (1 / 40)
            )
    into = {n: n for n in range(T)}
    partner = {a: max(B, key=lambda b: edge[a, b]) for a in A}
    for a in sorted(A, key=lambda a: -edge[a, partner[a]])[: r // 2]:
        into[a] = partner[a]
    left = [a for a in A if into[a] == a]
    partner = {b: max(left, key=lambda a: edge[a, b]) for b in B}
    order = sorted(B, key=lambda b: -edge[partner[b], b])
    for b in order[: r - r // 2]:
        into[b] = partner[b]
    order = [*range(p), *left, *order[r - r // 2 :]]
    members = [[n for n in range(T) if n == t or into[n] == t or into[into[n]] == t] for t in order]
    weight = received * s.sizes

    def mean(x: Tensor, tokens: list[int]) -> Tensor:
        return sum(weight[n] * x[n] for n in tokens) / weight[tokens].sum()  # type: ignore[no-any-return]

    by_key = torch.stack([s.map[:, :, m].sum(2) for m in members], 2)
    s.map = torch.stack([mean(by_key.transpose(0, 1), m) for m in members], 1)
    of_image = members[p:]
    values = [mean(s.x, m) for m in of_image]
    s.replace([[n - p for n in m] for m in of_image], values)


@pytest.mark.parametrize(
    ("backbone", "options"),
    [
        (CLASSY, {"r": 3}),
        (POOLED, {"r": 9}),
        (CLASSY, {"plan": {"blocks.2": 30, "blocks.5": 7}}),  # more than a half: two rounds
    ],
)
def test_the_network_is_that_of_the_formulas(backbone: str, options: dict[str, Any]) -> None:
    model, images = create(backbone, "mctf", **options)
    assert_agrees(model, images, fuse, at_input=True, in_order=True)


def test_r_leaves_every_block_but_the_first() -> None:
    model: Any = ltm.create_model(CLASSY, "mctf", r=16)
    assert [model.plan.get(f"blocks.{i}") for i in (0, 1, 2, 11)] == [None, 180, 164, 20]


def test_a_joins_b_and_b_joins_what_is_left_of_a() -> None:
    """Tokens 0, 2, 4 are A. 0 joins 1, which takes it on to 2; 3 and 4 stay."""
    edges = torch.tensor([[[0.9, 0.1], [0.8, 0.3], [0.2, 0.4]]])
    with_odd_first = torch.tensor([[[0.9, 0.1, 0.0], [0.8, 0.3, 0.0]]])
    assert match_both_ways(edges, 0, 2).tolist() == [[0, 0, 0, 2, 1]]
    # behind a class token the image's first token is number 1, of B
    assert match_both_ways(with_odd_first, 1, 2).tolist() == [[0, 0, 1, 0, 2]]


def test_what_is_left_of_b_lies_by_falling_edge() -> None:
    edges = torch.tensor([[[0.1, 0.2, 0.9], [0.0, 0.3, 0.0], [0.0, 0.0, 0.0]]])
    assert match_both_ways(edges, 0, 1).tolist() == [[0, 4, 1, 3, 2, 0]]


def test_rows_of_the_merged_map_sum_to_one_and_learn() -> None:
    method: Any = build_method("mctf", {}, {})
    logits = torch.randn(2, 3, 9, 9, requires_grad=True)
    tokens = torch.randn(2, 8, 4)
    site = Site("blocks.1", 4, (2, 4), 8, 3)
    merge = method(SiteInput(tokens, site, prefix=1, attention=logits.softmax(-1)))
    assert merge.attention.shape == (2, 3, 4, 4)
    torch.testing.assert_close(merge.attention.sum(-1), torch.ones(2, 3, 4))
    torch.testing.assert_close(merge.sizes().sum(1), torch.full((2,), 8.0))
    merge.attention.square().sum().backward()
    assert logits.grad.abs().sum() > 0  # type: ignore[union-attr]
