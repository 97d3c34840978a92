"""What a checkpoint keeps: ranks that go on from it, as many or fewer or more, go on alike."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from ltm_platform.errors import UserError
from ltm_platform.storage import manifest
from ltm_platform.storage.manifest import EMA_FILE, WEIGHTS_FILE

from . import resumed
from .resumed import CASES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .rank_pool import RankPool
    from .resumed import Case

QUICK = 2
"""Cases that every commit must pass: without ZeRO, and with optimizer states that are sharded."""


def marked(cases: Iterable[Case]) -> list[Any]:
    return [
        case if case in CASES[:QUICK] else pytest.param(case, marks=pytest.mark.slow)
        for case in cases
    ]


# in training DTEM sorts tokens by mass and cuts: float noise decides which of two is left
EXACT = [case for case in CASES if case.precision == "fp32" and case.method != "dtem"]
(HALF,) = (case for case in CASES if case.precision == "fp16")


def undisturbed(ranks: RankPool, case: Case) -> dict[str, Any]:
    """Rank 0 of two that have trained two epochs and left a checkpoint of the first."""
    return ranks.run(2, resumed.train, case, str(ranks.folder / str(case)))[0]


def going_on(ranks: RankPool, case: Case, workers: int) -> dict[str, Any]:
    """Rank 0 of those that have gone on from that checkpoint."""
    start = undisturbed(ranks, case)["checkpoint"]
    folder = ranks.folder / f"{case} on {workers}"
    return ranks.run(workers, resumed.train, case, str(folder), start)[0]


@pytest.mark.parametrize("case", marked(CASES), ids=str)
def test_the_same_ranks_go_on_to_the_bit(ranks: RankPool, case: Case) -> None:
    whole, later = undisturbed(ranks, case), going_on(ranks, case, 2)
    assert len(later["losses"]) == resumed.EPOCH
    assert later["losses"] == whole["losses"]
    assert later["files"].keys() == whole["files"].keys() >= {WEIGHTS_FILE, EMA_FILE}
    for file, tensors in whole["files"].items():
        for key, value in tensors.items():
            assert torch.equal(later["files"][file][key], value), f"{file}: {key}"


@pytest.mark.parametrize("case", marked(EXACT), ids=str)
def test_another_number_of_ranks_goes_on_within_float_noise(ranks: RankPool, case: Case) -> None:
    whole, later = undisturbed(ranks, case), going_on(ranks, case, 4)
    torch.testing.assert_close(later["losses"], whole["losses"], rtol=0, atol=5e-6)
    for file in (WEIGHTS_FILE, EMA_FILE):
        torch.testing.assert_close(later["files"][file], whole["files"][file], rtol=0, atol=2e-4)


@pytest.mark.parametrize(
    ("file", "damage", "says"),
    [
        ("optimizer.safetensors", lambda path: path.unlink(), "optimizer.safetensors is missing"),
        (
            "model.safetensors",
            lambda path: path.write_bytes(path.read_bytes()[:1000]),
            "model.safetensors has 1,000 bytes instead of",
        ),
        (
            "random_rank1.pt",
            lambda path: path.write_bytes(b"X" + path.read_bytes()[1:]),
            "random_rank1.pt has changed",
        ),
        ("manifest_rank1.json", lambda path: path.unlink(), "manifest_rank1.json is missing"),
        ("manifest_rank0.json", lambda path: path.write_text("{}"), "is damaged"),
    ],
)
def test_a_damaged_checkpoint_is_told(
    ranks: RankPool, tmp_path: Path, file: str, damage: Any, says: str
) -> None:
    stored = undisturbed(ranks, CASES[0])["checkpoint"]
    copy = Path(shutil.copytree(stored, tmp_path / "checkpoint"))
    manifest.check(copy)
    damage(copy / file)
    with pytest.raises(UserError, match=says):
        manifest.check(copy)


def test_a_foreign_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a checkpoint of ltm-platform"):
        manifest.check(tmp_path)


@pytest.mark.slow
def test_half_precision_goes_on_from_its_masters(ranks: RankPool) -> None:
    whole, later = undisturbed(ranks, HALF), going_on(ranks, HALF, 4)
    stored = load_file(Path(whole["checkpoint"]) / "optimizer.safetensors")
    masters = {key: value for key, value in stored.items() if key.startswith("master/")}
    assert masters
    assert any((value != value.half().float()).any() for value in masters.values())
    torch.testing.assert_close(later["losses"], whole["losses"], rtol=0, atol=0.05)
