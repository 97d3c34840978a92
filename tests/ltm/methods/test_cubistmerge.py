"""CubistMerge: neighbours merge, and the value farthest from 0 stays."""

from typing import Any

import pytest
import torch
from torch import Tensor

import ltm
from ltm.merge import MaxMagnitude
from ltm.methods.cubistmerge import merge_neighbours

from .conftest import on_circle
from .written_out import CLASSY, POOLED, Formula, State, assert_agrees, cosine, create

Cell = tuple[Tensor, list[int]]  # a token, and which of those that arrive are in it


def test_cubistmerge_joins_neighbours_and_keeps_their_order() -> None:
    # 1 takes 2, 3 takes 4, 5 has only 4; 2 and 4 never leave
    line, mass = on_circle(0, 50, 55, 120, 124, 180), torch.ones(1, 6)
    assert merge_neighbours(line, mass, 5).slot.tolist() == [[0, 1, 2, 3, 3, 4]]
    assert merge_neighbours(line, mass, 4).slot.tolist() == [[0, 1, 1, 2, 2, 3]]
    assert merge_neighbours(line, mass, 3).slot.tolist() == [[0, 1, 1, 2, 2, 2]]


def test_no_more_than_three_tokens_merge_at_once() -> None:
    torch.manual_seed(0)
    slot = merge_neighbours(torch.randn(50, 11, 3), torch.ones(50, 11), 6).slot
    sizes = torch.stack([(slot == s).sum(1) for s in range(6)], 1)
    assert sizes.max() == 3
    assert (slot.diff(dim=1) >= 0).all()


def merge_line(line: list[Tensor], leave: int) -> list[list[int]]:
    """The numbers of the tokens that merge, in their order, for the tokens of one line."""
    edges = []
    for odd in range(1, len(line), 2):
        near = [even for even in (odd - 1, odd + 1) if even < len(line)]
        even = max(near, key=lambda e: cosine(line[odd], line[e]))
        edges.append((cosine(line[odd], line[even]), odd, even))
    into = {odd: even for _, odd, even in sorted(edges, reverse=True)[:leave]}
    return [
        [j for j in range(len(line)) if into.get(j, j) == i]
        for i in range(len(line))
        if i not in into
    ]


def farthest(tokens: list[Tensor]) -> Tensor:
    values = torch.stack(tokens)
    return values.gather(0, values.abs().argmax(0, keepdim=True))[0]


def merged(line: list[Cell], leave: int) -> list[Cell]:
    together = merge_line([x for x, _ in line], leave)
    return [
        (farthest([line[i][0] for i in group]), [n for i in group for n in line[i][1]])
        for group in together
    ]


def by_authors(grid: int, rows: int, columns: int) -> Formula:
    def merge(s: State) -> None:
        if s.kept is None:
            return
        cells = [
            [(s.tokens[n], [n]) for n in range(r * grid, r * grid + grid)] for r in range(grid)
        ]
        by_rows = [merged(row, grid - columns) for row in cells]
        by_columns = [merged([row[c] for row in by_rows], grid - rows) for c in range(columns)]
        left = [by_columns[c][r] for r in range(rows) for c in range(columns)]
        s.replace([members for _, members in left], [x for x, _ in left])

    return merge


@pytest.mark.parametrize(
    ("backbone", "size", "grid", "site", "kept"),
    [
        (CLASSY, 112, 7, 1, (5, 4)),
        (CLASSY, 96, 6, 3, (6, 4)),
        (POOLED, 32, 8, 1, (5, 6)),
    ],
)
def test_cubistmerge_as_published(
    backbone: str, size: int, grid: int, site: int, kept: tuple[int, int]
) -> None:
    plan = {f"blocks.{site}": kept}
    model, images = create(backbone, "cubistmerge", images=3, image_size=size, plan=plan)
    formula = by_authors(grid, *kept)
    assert_agrees(model, images, formula, at_input=True, proportional=False)


def test_cubistmerge_acts_in_the_second_block() -> None:
    model: Any = ltm.create_model("vit_small_patch16_224", "cubistmerge", compression_ratio=0.8)
    assert model.plan == {"blocks.1": (13, 12)}
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
