"""A checkpoint's folder is whole, or it is said what is wrong with it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ltm_platform.errors import UserError
from ltm_platform.job import JobSpec
from ltm_platform.storage.manifest import (
    JOB_FILE,
    check,
    holds_manifest,
    job_of,
    read_manifest,
    seal,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RANKS = 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint of two ranks."""
    for rank in range(RANKS):
        name = f"optimizer_rank{rank}"
        (tmp_path / name).write_bytes(bytes([rank]) * 1000)
        seal(tmp_path, [name], rank=rank, world_size=RANKS, steps_done=7)
    return tmp_path


def test_a_whole_checkpoint_says_what_it_is(folder: Path) -> None:
    assert holds_manifest(folder)
    found = check(folder)
    assert (found.rank, found.world_size, found.steps_done) == (0, RANKS, 7)
    assert found.files.keys() == {"optimizer_rank0"}
    assert read_manifest(folder, 1).files.keys() == {"optimizer_rank1"}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    path.write_bytes(b"x" + path.read_bytes()[1:])


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda path: path.unlink(), "optimizer_rank1 is missing"),
        (cut, "optimizer_rank1 has 999 bytes instead of 1,000"),
        (flip, "optimizer_rank1 has changed since it was written"),
    ],
)
def test_a_file_of_any_rank_that_is_not_as_it_was_is_named(
    folder: Path, harm: Callable[[Path], None], says: str
) -> None:
    harm(folder / "optimizer_rank1")
    with pytest.raises(UserError, match=f"is damaged: {says}$"):
        check(folder)


def test_a_rank_that_did_not_come_to_its_end_is_told(folder: Path) -> None:
    (folder / "manifest_rank1.json").unlink()
    with pytest.raises(UserError, match=r"manifest_rank1\.json is missing"):
        check(folder)


def test_what_is_no_checkpoint_is_told(tmp_path: Path) -> None:
    assert not holds_manifest(tmp_path)
    with pytest.raises(UserError, match="is not a checkpoint of ltm-platform"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"rank": 0}', '{"later": 1}'])
def test_a_manifest_that_cannot_be_read_is_damage(folder: Path, text: str) -> None:
    (folder / "manifest_rank0.json").write_text(text)
    with pytest.raises(UserError, match=r"is damaged: manifest_rank0\.json: "):
        read_manifest(folder)


def test_another_format_is_not_guessed_at(folder: Path) -> None:
    path = folder / "manifest_rank0.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    with pytest.raises(UserError, match="has format 2, but this version reads format 1"):
        check(folder)


def test_the_job_of_a_checkpoint_has_no_first_weights(tmp_path: Path) -> None:
    job = JobSpec.load("quickstart", ["model.checkpoint=/gone/first.safetensors"])
    (tmp_path / JOB_FILE).write_text(job.to_yaml())
    assert job_of(tmp_path) == job.replace("model.checkpoint", None)
