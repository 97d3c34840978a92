"""`--set recipe.epochs=1` works for every job: the warm-up is cut with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ltm_platform.checks import check_job
from ltm_platform.errors import UserError
from ltm_platform.job import JobSpec
from ltm_platform.job.load import bundled_folder
from ltm_platform.job.shorten import PHASES

if TYPE_CHECKING:
    from pathlib import Path

JOBS = sorted(file.stem for file in bundled_folder().glob("*.yaml"))
BASE = "extends: quickstart\nrecipe: {epochs: 300, warmup_epochs: 5}\n"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.yaml"
    path.write_text(BASE)
    return path


@pytest.mark.parametrize("name", JOBS)
def test_every_job_can_train_for_one_epoch(name: str) -> None:
    whole, short = JobSpec.load(name), JobSpec.load(name, ["recipe.epochs=1"])
    again = JobSpec.from_dict(short.to_dict())  # as a worker, or a resumed run, has it
    assert again == short
    expected = []
    for phase in PHASES:
        lasts, now = (lasting(job, phase) for job in (whole, short))
        share = lasts / whole.recipe.epochs
        assert now == pytest.approx(share, rel=1e-3)
        assert again.shortened(phase) is None
        if lasts:
            expected += [f"{phase} is {share:.4g} instead of {lasts:g}: recipe.epochs is 1"]
    assert [notice for notice in check_job(short) if " instead of " in notice] == expected


def lasting(job: JobSpec, phase: str) -> float:
    node: Any = job
    for part in phase.split("."):
        node = getattr(node, part)
    return float(node)


@pytest.mark.parametrize(("epochs", "frozen"), [(6, 5), (5, 0.8333), (1, 0.1667)])
def test_a_backbone_that_stands_still_learns_in_the_end(epochs: int, frozen: float) -> None:
    job = JobSpec.load("dynamicvit_vit_s", [f"recipe.epochs={epochs}"])
    assert job.recipe.backbone.frozen_epochs == frozen


@pytest.mark.parametrize("epochs", [5, 6, 100])
def test_a_warm_up_that_fits_is_left_alone(base: Path, epochs: int) -> None:
    job = JobSpec.load(base, [f"recipe.epochs={epochs}"])
    assert job.recipe.warmup_epochs == 5
    assert not any("warmup" in notice for notice in check_job(job))


def test_a_file_that_extends_another_cuts_it_too(base: Path, tmp_path: Path) -> None:
    (tmp_path / "short.yaml").write_text("extends: base.yaml\nrecipe: {epochs: 3}\n")
    assert JobSpec.load(tmp_path / "short.yaml").recipe.warmup_epochs == 0.05
    changed = JobSpec.load(base).overridden(["recipe={epochs: 3}"])
    assert changed.recipe.warmup_epochs == 0.05
    assert changed.shortened("recipe.warmup_epochs") == 5


def test_what_is_typed_is_never_cut(base: Path) -> None:
    job = JobSpec.load(base, ["recipe.epochs=2", "recipe.warmup_epochs=1"])
    assert job.recipe.warmup_epochs == 1
    assert job.shortened("recipe.warmup_epochs") is None
    for overrides in (
        ["recipe.warmup_epochs=5", "recipe.epochs=2"],
        ["recipe.epochs=2", "recipe.warmup_epochs=5"],
    ):
        with pytest.raises(UserError, match=r"warmup_epochs is 5, but must be at most .* 2"):
            JobSpec.load(base, overrides)
    nonsense = BASE.replace("300", "3")
    base.write_text(nonsense)
    with pytest.raises(UserError, match=r"warmup_epochs is 5, but must be at most .* 3"):
        JobSpec.load(base)
    with pytest.raises(UserError, match=r"recipe.epochs is 'x'"):
        JobSpec.load(base, ["recipe.epochs=x"])
