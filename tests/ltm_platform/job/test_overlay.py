"""What a file or ``--set`` gives takes the place of what excludes it, unless that was typed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ltm_platform.errors import UserError
from ltm_platform.job import JobSpec

if TYPE_CHECKING:
    from pathlib import Path

    from ltm_platform.job import Model

BASE = "extends: quickstart\nmodel: {compression_ratio: 0.7, plan: null, pretrained: true}\n"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.yaml"
    path.write_text(BASE)
    return path


def budgets(model: Model) -> tuple[Any, ...]:
    return model.compression_ratio, model.plan, model.target_gmacs


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.target_gmacs=0.012", (None, None, 0.012)),
        ("model.plan={blocks.0: 20}", (None, {"blocks.0": 20}, None)),
        ("model={plan: {blocks.0: 20}}", (None, {"blocks.0": 20}, None)),
        ("model.compression_ratio=0.5", (0.5, None, None)),
        ("model.target_gmacs=null", (0.7, None, None)),
        ("model.options={}", (0.7, None, None)),
    ],
)
def test_one_budget_takes_the_place_of_another(
    base: Path, override: str, expected: tuple[Any, ...]
) -> None:
    assert budgets(JobSpec.load(base, [override]).model) == expected
    assert budgets(JobSpec.load(base).overridden([override]).model) == expected


def test_so_does_that_of_a_file_that_extends_another(base: Path) -> None:
    path = base.with_name("other.yaml")
    path.write_text("extends: base.yaml\nmodel: {target_gmacs: 0.012}\n")
    assert budgets(JobSpec.load(path).model) == (None, None, 0.012)


def test_weights_of_ones_own_take_the_place_of_published_ones(base: Path) -> None:
    model = JobSpec.load(base, ["model.checkpoint=base-1"]).model
    assert (model.checkpoint, model.pretrained) == ("base-1", False)
    path = base.with_name("other.yaml")
    path.write_text("extends: base.yaml\nmodel: {checkpoint: base-1, pretrained: false}\n")
    model = JobSpec.load(path, ["model.pretrained=true"]).model
    assert (model.checkpoint, model.pretrained) == (None, True)


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.compression_ratio=0.5", "model.target_gmacs=0.012"],
        ["model.target_gmacs=0.012", "model.compression_ratio=0.5"],
        ["model={compression_ratio: 0.5, target_gmacs: 0.012}"],
        ["model.pretrained=true", "model.checkpoint=base-1"],
    ],
)
def test_of_two_that_are_typed_neither_is_left_out(base: Path, overrides: list[str]) -> None:
    with pytest.raises(UserError, match="a job has only one of them"):
        JobSpec.load(base, overrides)
