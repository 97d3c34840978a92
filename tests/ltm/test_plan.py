"""From ratios to grids."""

from typing import Any

import pytest

import ltm
from ltm.plan import geometric, grid_for_ratio, kept_grid, removals, tokens_for_ratio


@pytest.mark.parametrize(
    ("ratio", "grid", "kept"),
    [
        (0.8, (14, 14), (13, 12)),
        (0.735, (7, 7), (6, 6)),
        (1.0, (14, 14), (14, 14)),
        (0.25, (8, 8), (4, 4)),
        (0.5, (4, 16), (3, 11)),
        (1e-6, (7, 7), (1, 1)),
    ],
)
def test_grids_shrink_evenly_to_the_nearest_area(
    ratio: float, grid: tuple[int, int], kept: tuple[int, int]
) -> None:
    assert grid_for_ratio(ratio, grid) == kept


def test_more_ratio_is_never_fewer_tokens() -> None:
    areas = [a * b for a, b in (grid_for_ratio(k / 196, (14, 14)) for k in range(1, 197))]
    assert areas == sorted(areas)
    assert tokens_for_ratio(0.8, 196) == 157
    assert tokens_for_ratio(1e-9, 196) == 1


@pytest.mark.parametrize("kept", [(8, 7), (0, 3), (3,), "6x6", 8, (True, 3), 6.0, None])
def test_grids_that_do_not_fit_are_named(kept: object) -> None:
    with pytest.raises(ValueError, match="1 x 1 to 7 x 7"):
        kept_grid("layers.2", kept, (7, 7))
    assert kept_grid("layers.2", 6, (7, 7)) == (6, 6)
    assert kept_grid("layers.2", [6, 5], (7, 7)) == (6, 5)


def test_elastic_ratios_depend_on_the_step_alone() -> None:
    ratios = [ltm.elastic_ratio((0.5, 1.0), step) for step in range(200)]
    assert ratios == [ltm.elastic_ratio((0.5, 1.0), step) for step in range(200)]
    assert 0.5 <= min(ratios) < 0.55
    assert 0.95 < max(ratios) <= 1
    assert ratios != [ltm.elastic_ratio((0.5, 1.0), step, seed=1) for step in range(200)]
    few = {ltm.elastic_ratio((0.5, 1.0), step, choices=3) for step in range(200)}
    assert few == {0.5, 0.75, 1.0}
    with pytest.raises(ValueError, match="low to high"):
        ltm.elastic_ratio((0.9, 0.5), 0)


@pytest.mark.parametrize("skips", [0, 3])
@pytest.mark.parametrize("ratio", [0.35, 0.6, 0.8, 0.97])
def test_a_geometric_schedule_keeps_the_same_part_everywhere(ratio: float, skips: int) -> None:
    kept = geometric(ratio, 196, 12, skips)
    assert kept[:skips] == [196] * skips
    assert sum(kept) / 12 / 196 == pytest.approx(ratio, abs=0.005)
    parts = [after / before for before, after in zip(kept[skips:], kept[skips + 1 :], strict=False)]
    assert max(parts) - min(parts) < 1.5 / min(kept)  # whole tokens


def test_a_geometric_schedule_goes_from_all_to_one() -> None:
    assert geometric(1.0, 196, 4) == [196] * 4
    assert geometric(1e-6, 196, 4) == [1] * 4


def test_a_part_leaves_every_block() -> None:
    removed = removals(0.1, "constant", 3, skips=1)
    assert [removed.kept(site, 200) for site in range(3)] == [200, 180, 180]
    assert removed.kept(1, 199) == 180  # rounded up
    assert removals(0.9, "constant", 1).kept(0, 200) == 100  # half at most
    model: Any = ltm.create_model("vit_nano_patch4_32", "tome", r=0.25)
    assert [*model.plan.values()] == [48, 36, 27, 21]
    for r in (1.0, 0.0, -0.5, 8.5):
        with pytest.raises(ltm.FieldError, match="a part above 0 and below 1"):
            ltm.create_model("vit_nano_patch4_32", "tome", r=r)


def test_once_is_spent_at_the_first_site_at_which_a_method_acts() -> None:
    model: Any = ltm.create_model("vit_nano_patch4_32", "cubistmerge", compression_ratio=0.5)
    assert [*model.plan] == ["blocks.1"]
    model = ltm.create_model("vit_nano_patch4_32", "ltm", compression_ratio=0.5)
    assert [*model.plan] == ["blocks.0"]
