"""A checkpoint's folder is whole, or it is said what is wrong with it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from ltm_platform.errors import UserError
from ltm_platform.job import JobSpec
from ltm_platform.storage.manifest import (
    FILE_METADATA,
    JOB_FILE,
    PROGRESS_FILE,
    WEIGHTS_FILE,
    check,
    check_weights,
    fingerprints,
    holds_manifest,
    job_of,
    read_manifest,
)

from .sealing import RUN_ID, seal

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
        seal(tmp_path, [name], rank, world_size=RANKS)
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


def change(folder: Path, fields: dict[str, object]) -> None:
    """Other values in rank 0's manifest, which keeps its seal; a field goes that is None."""
    path = folder / "manifest_rank0.json"
    values = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


@pytest.mark.parametrize(
    "fields",
    [
        {"steps_done": 8},
        {"world_size": 1},
        {"files": {}},
        {"metrics": {"val/top1": 99.0}},
        {"run": "other"},
        {"run_id": "other"},
        {"checkpoint": "other"},
        {"content": "weights"},
        {"rank": 1},
        {"more": 1},
        {"format": 3},
        {"seal": "0" * 64},
        {"seal": 7},
    ],
    ids=str,
)
def test_a_manifest_that_was_changed_is_damage(folder: Path, fields: dict[str, object]) -> None:
    change(folder, fields)
    says = r"is damaged: manifest_rank0\.json: it has changed since it was written$"
    with pytest.raises(UserError, match=says):
        check(folder)


@pytest.mark.parametrize("fields", [{"seal": None}, {"seal": None, "format": 1}], ids=str)
def test_a_manifest_without_its_seal_is_damage(folder: Path, fields: dict[str, object]) -> None:
    change(folder, fields)
    with pytest.raises(UserError, match=r"is damaged: manifest_rank0\.json: "):
        check(folder)


@pytest.mark.parametrize(
    "fields",
    [
        {"steps_done": "7"},
        {"steps_done": True},
        {"world_size": 0},
        {"files": {"optimizer_rank0": "x"}},
        {"files": []},
        {"rank": None},
        {"format": True},
        {"format": None},
    ],
    ids=str,
)
def test_a_wrong_type_in_a_manifest_without_a_seal_is_damage(
    unsealed: Path, fields: dict[str, object]
) -> None:
    assert check(unsealed).steps_done == 7
    change(unsealed, fields)
    with pytest.raises(UserError, match=r"is damaged: manifest_rank0\.json: .*[a-z]"):
        check(unsealed)


def test_another_format_is_not_guessed_at(unsealed: Path) -> None:
    change(unsealed, {"format": 3})
    with pytest.raises(UserError, match="has format 3, but this version reads formats 1 and 2"):
        check(unsealed)


def test_the_manifests_of_all_ranks_agree(folder: Path) -> None:
    seal(folder, ["optimizer_rank1"], 1, world_size=RANKS, steps_done=8)
    with pytest.raises(
        UserError, match=r"steps_done is 7 in manifest_rank0\.json, but 8 in manifest_rank1\.json"
    ):
        check(folder)


def test_a_manifest_in_place_of_another_ranks_is_damage(folder: Path) -> None:
    (folder / "manifest_rank1.json").write_bytes((folder / "manifest_rank0.json").read_bytes())
    with pytest.raises(UserError, match=r"manifest_rank1\.json is that of rank 0"):
        check(folder)


def test_the_manifest_of_fewer_workers_is_damage(folder: Path) -> None:
    seal(folder, ["optimizer_rank0"], world_size=1)
    with pytest.raises(UserError, match=r"manifest_rank1\.json is there, but .* of 1 workers"):
        check(folder)


def test_a_checkpoint_of_another_run_or_place_is_told(folder: Path) -> None:
    check(folder, run_id=RUN_ID, name=folder.name)
    with pytest.raises(UserError, match=rf"is of another run, 'run' \({RUN_ID}\)"):
        check(folder, run_id="beef")
    with pytest.raises(UserError, match=f"is of another folder, '{folder.name}'"):
        check(folder, name="checkpoint_9")


def test_weights_that_were_put_beside_others_are_not_taken(folder: Path) -> None:
    (folder / "model_ema.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"model_ema\.safetensors is there, but no manifest lists"):
        check(folder)


@pytest.fixture
def unsealed(tmp_path: Path) -> Path:
    """A checkpoint of one rank, as version 0.1 wrote it."""
    folder = tmp_path / "old"
    folder.mkdir()
    save_file({"w": torch.ones(2)}, folder / WEIGHTS_FILE)
    (folder / JOB_FILE).write_text("model: x")
    files = fingerprints(folder, [WEIGHTS_FILE, JOB_FILE])
    values = {"rank": 0, "world_size": 1, "steps_done": 7, "files": files, "format": 1}
    (folder / "manifest_rank0.json").write_text(json.dumps(values))
    return folder


def test_a_checkpoint_of_version_0_1_is_read_with_a_warning(unsealed: Path) -> None:
    assert "version 0.1" in (check_weights(unsealed) or "")


def test_a_checkpoint_of_version_0_1_lists_its_weights(unsealed: Path) -> None:
    change(unsealed, {"files": {}})
    with pytest.raises(UserError, match=r"manifest_rank0\.json lists no model\.safetensors"):
        check(unsealed)


def test_one_that_was_sealed_is_not_taken_for_one_of_version_0_1(unsealed: Path) -> None:
    save_file({"w": torch.ones(2)}, unsealed / WEIGHTS_FILE, FILE_METADATA)
    change(unsealed, {"files": fingerprints(unsealed, [WEIGHTS_FILE, JOB_FILE])})
    with pytest.raises(UserError, match=r"manifest_rank0\.json has lost its seal"):
        check_weights(unsealed)


@pytest.mark.parametrize("mark", [FILE_METADATA, None])
def test_a_checkpoint_without_manifests_is_damage(
    unsealed: Path, mark: dict[str, str] | None
) -> None:
    save_file({"w": torch.ones(2)}, unsealed / WEIGHTS_FILE, mark)
    (unsealed / "manifest_rank0.json").unlink()
    if mark is None:  # then what only checkpoints hold tells
        (unsealed / PROGRESS_FILE).write_text("{}")
    with pytest.raises(UserError, match=r"is damaged: manifest_rank0\.json is missing"):
        check_weights(unsealed)


def test_weights_that_were_never_sealed_are_used_with_a_warning(unsealed: Path) -> None:
    (unsealed / "manifest_rank0.json").unlink()
    assert "has no manifest: its weights cannot be checked" in (check_weights(unsealed) or "")


def test_the_job_of_a_checkpoint_has_no_first_weights(tmp_path: Path) -> None:
    job = JobSpec.load("quickstart", ["model.checkpoint=/gone/first.safetensors"])
    (tmp_path / JOB_FILE).write_text(job.to_yaml())
    assert job_of(tmp_path) == job.replace("model.checkpoint", None)
