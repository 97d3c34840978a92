"""The study's own parts: what is drawn, what is compared with what, what counts as a win."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.study import cells, report, sets
from benchmarks.study.cells import Cell, base
from benchmarks.study.runs import Place, still_to_run
from ltm_platform.job import JobSpec

if TYPE_CHECKING:
    from pathlib import Path


def found(rows: dict[Cell, float]) -> dict[Cell, dict[str, Any]]:
    return {cell: {"test_top1": top1, "seconds": 1.0} for cell, top1 in rows.items()}


def tuned(method: str, seed: int) -> Cell:
    return Cell("mnist", "fine-tuned", method, 0.65, seed)


def test_every_item_has_one_split_and_shares_are_kept() -> None:
    items = [str(number) for number in range(200)]
    splits = sets.split_of(items)
    assert Counter(splits.values()) == {"train": 140, "val": 20, "test": 40}
    assert sets.split_of(items) == splits


def test_drawings_are_squares_on_white_and_none_is_there_twice(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for number in range(sets.LEAST_DRAWINGS):
        file = tmp_path / "animals" / f"{number:03d}.png"
        file.parent.mkdir(exist_ok=True)
        pixels = random.integers(256, size=(4, 8, 4), dtype=np.uint8)
        Image.fromarray(pixels).save(file)
        file.with_name(f"again_{number}.png").write_bytes(file.read_bytes())
    (tmp_path / "few").mkdir()
    Image.new("RGBA", (4, 4)).save(tmp_path / "few/1.png")
    (tmp_path / "animals/broken.png").write_bytes(b"no picture")
    drawn = list(sets.clipart(tmp_path))
    assert len(drawn) == sets.LEAST_DRAWINGS
    assert {name for _, name, _ in drawn} == {"animals"}
    for _, _, picture in drawn:
        assert picture.size == (sets.SIDE, sets.SIDE)
        assert np.asarray(picture)[0].min() > 240, "above a drawing that is wide"


def test_the_test_split_is_a_set_of_its_own(tmp_path: Path) -> None:
    picture = Image.new("RGB", (4, 4))
    splits = ("train", "train", "val", "test", "test")
    counts = sets.store(((split, "cat", picture) for split in splits), tmp_path)
    assert counts == {"train": 2, "val": 1, "test": 2}
    files = Counter(str(file.parent.relative_to(tmp_path)) for file in tmp_path.rglob("*.png"))
    assert files == {"main/train/cat": 2, "main/val/cat": 1, "test/val/cat": 2, "test/train/cat": 1}


def test_bases_come_before_what_begins_with_their_weights() -> None:
    wanted = cells.cells(("mnist", "clipart"), (0, 1), (0.65, 0.5))
    assert len(wanted) == len({*wanted})
    assert len({cell.name for cell in wanted}) == len(wanted)
    for place, cell in enumerate(wanted):
        assert base(cell.data, cell.seed) in wanted[: place + 1]
    assert {cell.seed for cell in wanted[: len(wanted) // 4]} == {0}


def test_a_study_goes_on_where_it_stopped_also_without_the_weights(tmp_path: Path) -> None:
    wanted = [base("mnist", 0), tuned("ltm", 0), tuned("tome", 0)]
    place = Place(tmp_path)
    assert still_to_run(wanted, {}, place) == wanted
    there = {wanted[0]: {"weights": "best"}, wanted[1]: {}}
    assert still_to_run(wanted, there, place) == [wanted[0], wanted[2]], "they are gone"
    (tmp_path / "best").mkdir()
    (tmp_path / "best/model.safetensors").touch()
    assert still_to_run(wanted, there, place) == [wanted[2]]
    assert still_to_run(wanted, {cell: {} for cell in wanted}, place) == []


def test_variants_are_screened_once_and_the_term_is_left_out_for_every_seed() -> None:
    wanted = cells.cells(("mnist",), (0, 1), (0.65, 0.5))
    screened = [cell for cell in wanted if cell.method in cells.VARIANTS]
    assert {(cell.seed, cell.part) for cell in screened} == {(0, 0.65)}
    without = [cell for cell in wanted if cell.method == cells.WITHOUT_IB]
    assert [(cell.seed, cell.part) for cell in without] == [(0, 0.65), (1, 0.65)]
    weights = {
        method: cells.job(Cell("mnist", "fine-tuned", method, 0.65, 0), "digits", 0.01, "w")[
            "recipe"
        ]["ib"]["weight"]
        for method in ("ltm", cells.WITHOUT_IB, "tome")
    }
    assert weights == {"ltm": 0.1, cells.WITHOUT_IB: 0.0, "tome": 0.0}


@pytest.mark.parametrize("method", ["none", *cells.OURS, cells.WITHOUT_IB, *cells.RIVALS])
@pytest.mark.parametrize("regime", ["fine-tuned", "from scratch"])
def test_every_cell_is_a_job(method: str, regime: str) -> None:
    cell = Cell("mnist", regime, method, 0.65, 1)
    spec = JobSpec.from_dict(cells.job(cell, "digits", 0.01, "weights.safetensors"))
    assert (spec.model.target_gmacs is None) == (method == "none")
    assert (spec.model.checkpoint is None) == (regime == "from scratch")
    assert spec.recipe.seed == 1


def test_a_rival_is_compared_on_the_same_set_and_seed() -> None:
    rows = {tuned("ltm", seed): 90.0 + seed for seed in range(3)}
    rows |= {tuned("tome", seed): 89.0 + seed for seed in range(4)}
    rows[Cell("mnist", "from scratch", "smaller", 0.65, 0)] = 95.0
    tome, smaller = report.compare(found(rows), "fine-tuned", 0.65, "ltm", ["tome", "smaller"])
    assert tome.differences == (1.0, 1.0, 1.0)
    assert smaller.differences == (-5.0,)
    assert smaller.verdict == "open", "of one pair nothing follows"


def test_off_the_shelf_the_base_is_the_one_from_scratch() -> None:
    ours = Cell("mnist", cells.OFF_THE_SHELF, "ltm", 0.65, 0)
    rows = found({ours: 80.0, base("mnist", 0): 95.0})
    (claim,) = report.compare(rows, cells.OFF_THE_SHELF, 0.65, "ltm", ["none"])
    assert claim.differences == (-15.0,)


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ((2.0, 2.2, 1.8, 2.1, 1.9), "better"),
        ((-2.0, -2.2, -1.8, -2.1, -1.9), "worse"),
        ((0.1, -0.1, 0.05, -0.05, 0.0), "equal"),
        ((3.0, -3.0, 2.0, -2.0, 1.0), "open"),
    ],
)
def test_a_verdict_follows_the_protocol(differences: tuple[float, ...], verdict: str) -> None:
    (claim,) = report.holm([report.Compared("fine-tuned", 0.65, "ltm", "tome", differences)])
    assert claim.verdict == verdict


def test_many_claims_need_stronger_evidence() -> None:
    weak = report.Compared("fine-tuned", 0.65, "ltm", "a", (0.2, 1.5, 0.9, 1.6, 0.3))
    assert 0.01 < weak.p < 0.05
    (alone,) = report.holm([weak])
    assert alone.verdict == "better"
    nothing = [report.Compared("fine-tuned", 0.65, "ltm", "b", (1.0, -1.0, 0.5))] * 9
    assert report.holm([weak, *nothing])[0].verdict == "open"


def test_a_row_of_the_table_has_means_over_seeds() -> None:
    rows = found({tuned("ltm", 0): 90.0, tuned("ltm", 1): 92.0, tuned("tome", 0): 80.0})
    shown = report.table(rows)
    assert "| fine-tuned | 0.65 | `ltm` | 91.00 ± 1.41 (2) |" in shown
    assert "| fine-tuned | 0.65 | `tome` | 80.00 (1) |" in shown
