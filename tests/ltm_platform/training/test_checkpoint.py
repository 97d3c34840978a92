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

from .conftest import run_program
from .resumed import CASES, name_of

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMES = [name_of(*case) for case in CASES]
EXACT = [name_of(*case) for case in CASES if not case[-1]]


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory,
    ltm_home: Path,  # noqa: ARG001 - the environment
) -> Path:
    """Two ranks have trained two epochs and left a checkpoint of the first; others went on."""
    path = tmp_path_factory.mktemp("resumed")
    run_program("resumed.py", path)
    return path


def seen(folder: Path, task: str, workers: int, name: str) -> Mapping[str, Any]:
    return torch.load(folder / f"{task}-{workers}.pt")[name]


@pytest.mark.parametrize("name", NAMES)
def test_the_same_ranks_go_on_to_the_bit(folder: Path, name: str) -> None:
    undisturbed, resumed = seen(folder, "write", 2, name), seen(folder, "go-on", 2, name)
    assert resumed["losses"] == undisturbed["losses"]
    for kind in ("weights", "average"):
        for key, value in undisturbed[kind].items():
            assert torch.equal(resumed[kind][key], value), f"{kind} {key}"


@pytest.mark.parametrize("name", EXACT)
def test_another_number_of_ranks_goes_on_within_float_noise(folder: Path, name: str) -> None:
    undisturbed, resumed = seen(folder, "write", 2, name), seen(folder, "go-on", 4, name)
    torch.testing.assert_close(resumed["losses"], undisturbed["losses"], rtol=0, atol=5e-6)
    for kind in ("weights", "average"):
        torch.testing.assert_close(resumed[kind], undisturbed[kind], rtol=0, atol=2e-4)


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
    folder: Path, tmp_path: Path, file: str, damage: Any, says: str
) -> None:
    copy = Path(shutil.copytree(folder / NAMES[0], tmp_path / "checkpoint"))
    manifest.check(copy)
    damage(copy / file)
    with pytest.raises(UserError, match=says):
        manifest.check(copy)


def test_a_foreign_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a checkpoint of ltm-platform"):
        manifest.check(tmp_path)


def test_half_precision_goes_on_from_its_masters(folder: Path) -> None:
    name = NAMES[-1]
    stored = load_file(folder / name / "optimizer.safetensors")
    masters = {key: value for key, value in stored.items() if key.startswith("master/")}
    assert masters
    assert any((value != value.bfloat16().float()).any() for value in masters.values())
    undisturbed, resumed = seen(folder, "write", 2, name), seen(folder, "go-on", 4, name)
    torch.testing.assert_close(resumed["losses"], undisturbed["losses"], rtol=0, atol=0.05)
