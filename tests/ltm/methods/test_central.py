"""Central: the tokens nearest to the centre of the image, exactly as many as the plan says."""

from typing import Any

import pytest
import torch

import ltm
from ltm.methods.central import nearest

from .written_out import CLASSY, POOLED, State, assert_agrees, create

FAR = {
    "l1": lambda a, b: abs(a) + abs(b),
    "l2": lambda a, b: (a * a + b * b) ** 0.5,
    "linf": lambda a, b: max(abs(a), abs(b)),
}


def order(rows: int, columns: int, distance: str) -> list[int]:
    """All tokens from near to far, of equal distances in the order of the image."""
    places = [
        (r - (rows - 1) / 2, c - (columns - 1) / 2) for r in range(rows) for c in range(columns)
    ]
    far = [round(FAR[distance](*place), 9) for place in places]
    return sorted(range(len(places)), key=lambda n: (far[n], n))


@pytest.mark.parametrize("distance", FAR)
@pytest.mark.parametrize("backbone", [CLASSY, POOLED])
def test_the_network_is_that_of_the_formula(backbone: str, distance: str) -> None:
    model, images = create(backbone, "central", images=3, compression_ratio=0.7, distance=distance)
    ranked = order(*model.patch_embed.grid_size, distance)

    def keep(s: State) -> None:
        order = sorted(range(len(s.tokens)), key=lambda n: ranked.index(s.groups[n][0]))
        s.replace([[n] for n in order[: s.kept]])

    assert_agrees(model, images, keep, proportional=False)


@pytest.mark.parametrize("distance", FAR)
@pytest.mark.parametrize("grid", [(14, 14), (7, 7), (5, 8), (1, 6)])
def test_ties_are_broken_by_position(grid: tuple[int, int], distance: str) -> None:
    expected = order(*grid, distance)
    for kept in (1, 4, grid[0] * grid[1] - 1):
        assert nearest(grid, kept, distance, torch.empty(0)).tolist() == expected[:kept]


def test_a_grid_keeps_its_central_rows_and_columns() -> None:
    index = nearest((4, 5), (2, 2), "l2", torch.empty(0))
    assert index.tolist() == [5 + 1, 5 + 2, 10 + 1, 10 + 2]


def test_another_distance_is_refused_in_a_sentence() -> None:
    wrong: dict[str, Any] = {"distance": "l3"}
    with pytest.raises(ltm.FieldError, match="l1, l2, linf"):
        ltm.create_model("vit_nano_patch4_32", "central", **wrong)
