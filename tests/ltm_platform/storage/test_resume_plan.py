"""Which checkpoint a run goes on from, what is removed before it does, and what is said first."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from ray.train import CheckpointConfig

from ltm_platform.compat.ray_checkpoints import RECORD_FILE, read_record
from ltm_platform.compat.ray_train import CheckpointKeeper
from ltm_platform.errors import UserError
from ltm_platform.storage.checkpoints import stored
from ltm_platform.storage.path import storage_path
from ltm_platform.storage.resume_plan import plan_to_resume, repaired_job, restored_folder
from ltm_platform.storage.run_folder import RunFolder

from .conftest import TOP1, write_run
from .sealing import RUN_ID, seal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


here = pytest.mark.parametrize("folder", ["here"], indirect=True)


def resume(folder: RunFolder, start: str | None = None) -> list[str]:
    """What is said before the run goes on."""
    plan = plan_to_resume(folder, start, RUN_ID)
    plan.carry_out()
    return list(plan.notices)


def names(folder: RunFolder) -> list[str]:
    return [one.path.name for one in stored(folder)]


def recorded(folder: RunFolder) -> list[str]:
    return [one.name for one in read_record((folder.storage / RECORD_FILE).read())]


def ray_goes_on_from(folder: RunFolder) -> str:
    """By Ray Train's own manager of checkpoints."""
    latest = CheckpointKeeper(folder.path, CheckpointConfig(num_to_keep=3)).latest
    assert latest
    return latest.name


def test_what_a_kill_left_half_written_is_removed_and_the_rest_kept(folder: RunFolder) -> None:
    assert resume(folder) == []
    assert folder.storage.folders() == list(TOP1)


@here
def test_a_run_that_was_killed_in_its_first_checkpoint_starts_at_the_beginning(
    folder: RunFolder,
) -> None:
    without(folder)
    for name in folder.storage.folders():
        (folder.storage / name / "manifest_rank0.json").delete()
    assert resume(folder) == []
    assert folder.storage.folders() == []


@here
@pytest.mark.parametrize("keep", [1, 2, 3])
def test_a_checkpoint_that_a_kill_kept_from_the_record_counts_among_those_that_are_kept(
    folder: RunFolder, keep: int
) -> None:
    """As if Ray Train had known it: the best few are kept, and the last."""
    order = sorted(TOP1, key=lambda name: -1.0 if TOP1[name] is None else TOP1[name])
    expected = sorted({*order[-keep:], max(TOP1)})
    plan = plan_to_resume(folder, None, RUN_ID, keep)
    plan.carry_out()
    assert plan.notices == ()
    assert names(folder) == recorded(folder) == expected
    assert ray_goes_on_from(folder) == max(TOP1)


def test_nothing_changes_before_it_is_said(folder: RunFolder) -> None:
    before = folder.storage.files(recursive=True)
    plan = plan_to_resume(folder, "checkpoint_a", RUN_ID)
    assert plan.notices == (
        "--from checkpoint_a: removes what came after: checkpoint_b, checkpoint_c",
    )
    assert folder.storage.files(recursive=True) == before


def test_an_earlier_checkpoint_becomes_the_last(folder: RunFolder) -> None:
    resume(folder, "checkpoint_b")
    assert names(folder) == recorded(folder) == ["checkpoint_a", "checkpoint_b"]
    record = json.loads((folder.storage / RECORD_FILE).read())
    assert record["latest_checkpoint_result"]["checkpoint_dir_name"] == "checkpoint_b"
    assert folder.storage.folders() == ["checkpoint_a", "checkpoint_b"]


def without(folder: RunFolder) -> None:
    (folder.storage / RECORD_FILE).delete()


def written(change: Callable[[bytes], bytes]) -> Callable[[RunFolder], None]:
    def write(folder: RunFolder) -> None:
        record = folder.storage / RECORD_FILE
        text = record.read()
        changed = change(text)
        assert changed != text
        record.write(changed)

    return write


DAMAGED_RECORDS = {
    "removed": without,
    "empty": written(lambda _: b""),
    "truncated": written(lambda text: text[: len(text) // 2]),
    "not UTF-8": written(lambda text: b"\xff" + text[1:]),
    "not JSON": written(lambda _: b"checkpoints"),
    "null": written(lambda _: b"null"),
    "a list": written(lambda _: b"[]"),
    "no results": written(lambda _: b"{}"),
    "wrong types": written(lambda text: text.replace(b'"checkpoint_a"', b"7")),
    "another metric": written(lambda text: text.replace(b"95.0", b"15.0")),
    "another name": written(lambda text: text.replace(b"checkpoint_c", b"checkpoint_g")),
    "a name with a NUL": written(lambda text: text.replace(b"checkpoint_c", rb"\u0000")),
    "a name with a path": written(lambda text: text.replace(b"checkpoint_c", b"checkpoint_/../c")),
    "another order": written(lambda text: text.replace(b"[2,0,1]", b"[2,1,0]")),
    "an index less": written(lambda text: text.replace(b"[2,0,1]", b"[2,0]")),
}


@pytest.mark.parametrize("harm", DAMAGED_RECORDS.values(), ids=DAMAGED_RECORDS)
@here
def test_a_lost_or_damaged_record_of_rays_is_made_again(
    folder: RunFolder, harm: Callable[[RunFolder], None]
) -> None:
    intact = (folder.storage / RECORD_FILE).read()
    harm(folder)
    assert names(folder) == list(TOP1)
    said = resume(folder)
    assert any(
        f"{RECORD_FILE}, " in line
        and "made again from the manifests of 3 checkpoints, the last of step 3" in line
        for line in said
    )
    assert (folder.storage / RECORD_FILE).read() == intact
    assert ray_goes_on_from(folder) == "checkpoint_c"
    assert set(folder.storage.folders()) >= set(TOP1)


def test_a_lost_record_is_made_again_in_an_object_store(folder: RunFolder) -> None:
    without(folder)
    assert len(resume(folder)) == 2  # and what may be whole or half-written is left
    assert recorded(folder) == list(TOP1)


@here
def test_what_was_complete_before_a_kill_could_record_it_is_gone_on_from(
    folder: RunFolder,
) -> None:
    path = folder.path / "checkpoint_d"
    path.mkdir()
    (path / "weights").write_text("d")
    seal(path, ["weights"], steps_done=4)
    (said,) = resume(folder)
    assert "says something else" in said
    assert ray_goes_on_from(folder) == "checkpoint_d"


@here
def test_rays_retention_goes_on_from_a_record_that_was_made_again(folder: RunFolder) -> None:
    from ray.train import Checkpoint

    without(folder)
    resume(folder)
    kept = CheckpointConfig(
        num_to_keep=1, checkpoint_score_attribute="val/top1", checkpoint_score_order="max"
    )
    (folder.path / "checkpoint_e").mkdir()
    keeper = CheckpointKeeper(folder.path, kept)
    keeper.register(Checkpoint.from_directory(folder.path / "checkpoint_e"), {"val/top1": 1.0})
    assert recorded(folder) == ["checkpoint_b", "checkpoint_e"]


def test_a_run_without_checkpoints_begins_anew(folder: RunFolder) -> None:
    for name in folder.storage.folders():
        (folder.storage / name).delete_folder()
    without(folder)
    assert resume(folder) == []


def test_a_run_that_lost_all_its_checkpoints_does_not_begin_anew(folder: RunFolder) -> None:
    for name in folder.storage.folders():
        (folder.storage / name).delete_folder()
    with pytest.raises(UserError, match=r"has lost its checkpoints \(checkpoint_a, checkpoint_b"):
        plan_to_resume(folder, None, RUN_ID)


def test_a_checkpoint_that_somebody_removed_is_told(folder: RunFolder) -> None:
    (folder.storage / "checkpoint_a").delete_folder()
    said = resume(folder)
    assert "not there any more: checkpoint_a" in said
    assert recorded(folder) == ["checkpoint_b", "checkpoint_c"]


def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_offered(folder: RunFolder) -> None:
    (folder.storage / "checkpoint_c" / "weights").write(b"else")
    with pytest.raises(UserError) as error:
        plan_to_resume(folder, None, RUN_ID)
    assert "checkpoint_c is damaged: weights has" in str(error.value)
    assert "ltm-platform resume run --from checkpoint_b" in str(error.value)
    assert names(folder) == list(TOP1)
    assert "checkpoint_half" in folder.storage.folders(), "nothing is changed before the checks"


def test_what_is_offered_is_whole(folder: RunFolder) -> None:
    for name in ("checkpoint_b", "checkpoint_c"):
        (folder.storage / name / "weights").write(b"else")
    with pytest.raises(UserError, match=r"resume run --from checkpoint_a$"):
        plan_to_resume(folder, None, RUN_ID)


def test_a_damaged_manifest_is_refused_whatever_the_record_says(folder: RunFolder) -> None:
    manifest = folder.storage / "checkpoint_c" / "manifest_rank0.json"
    manifest.write(manifest.read().replace(b'"steps_done":3', b'"steps_done":4'))
    for harm in (lambda: None, lambda: without(folder)):
        harm()
        with pytest.raises(
            UserError, match=r"checkpoint_c is damaged: manifest_rank0.*checkpoint_b"
        ):
            plan_to_resume(folder, None, RUN_ID)
    resume(folder, "checkpoint_b")
    assert names(folder) == recorded(folder) == ["checkpoint_a", "checkpoint_b"]


def test_a_lost_manifest_is_refused(folder: RunFolder) -> None:
    (folder.storage / "checkpoint_c" / "manifest_rank0.json").delete()
    with pytest.raises(UserError, match=r"checkpoint_c.*manifest_rank0\.json is missing"):
        plan_to_resume(folder, None, RUN_ID)


def test_a_damaged_checkpoint_before_the_last_is_told_and_left(folder: RunFolder) -> None:
    manifest = folder.storage / "checkpoint_a" / "manifest_rank0.json"
    manifest.write(b"{")
    (said,) = resume(folder)
    assert "checkpoint_a is damaged: manifest_rank0.json: " in said
    assert said.endswith("it is left as it is, and not used")
    assert recorded(folder) == ["checkpoint_b", "checkpoint_c"]
    assert "checkpoint_a" in folder.storage.folders()


@here
def test_another_runs_checkpoint_is_neither_used_nor_removed(folder: RunFolder) -> None:
    path = folder.path / "checkpoint_d"
    path.mkdir()
    (path / "weights").write_text("d")
    seal(path, ["weights"], steps_done=9, run="other", run_id="beef")
    with pytest.raises(UserError, match=r"checkpoint_d is damaged: .* another run, 'other'"):
        plan_to_resume(folder, None, RUN_ID)
    said = resume(folder, "checkpoint_b")
    assert any("another run" in line and "left as it is" in line for line in said)
    assert folder.storage.folders() == ["checkpoint_a", "checkpoint_b", "checkpoint_d"]
    assert ray_goes_on_from(folder) == "checkpoint_b"


@here
def test_an_older_checkpoint_in_place_of_the_last_is_told(folder: RunFolder) -> None:
    for name in ("weights", "job.yaml", "manifest_rank0.json"):
        content = (folder.path / "checkpoint_a" / name).read_bytes()
        (folder.path / "checkpoint_c" / name).write_bytes(content)
    with pytest.raises(UserError, match="is of another folder, 'checkpoint_a'"):
        plan_to_resume(folder, None, RUN_ID)


@here
def test_a_copy_of_weights_is_nothing_to_resume_from(folder: RunFolder) -> None:
    path = folder.path / "checkpoint_c"
    seal(path, ["weights", "job.yaml"], steps_done=3, content="weights")
    with pytest.raises(UserError, match="checkpoint_c is damaged: it holds weights alone"):
        plan_to_resume(folder, None, RUN_ID)


def test_an_unknown_checkpoint_is_refused_with_the_nearest(folder: RunFolder) -> None:
    with pytest.raises(UserError, match="did you mean 'checkpoint_a'"):
        plan_to_resume(folder, "checkpoint_aa", RUN_ID)


def test_what_lies_in_a_store_outlives_the_machine(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LTM_PLATFORM_HOME", str(tmp_path / "home"))
    address = f"{bucket}/runs"
    assert restored_folder("run", address) is None
    assert restored_folder("run", "None") is None
    write_run(tmp_path / "elsewhere")
    (storage_path(address) / "run").put(tmp_path / "elsewhere")
    again = restored_folder("run", address)
    assert again
    assert again.path == tmp_path / "home" / "runs" / "run"
    assert again.job.read_text().endswith("\nmodel: x")
    assert names(again) == list(TOP1)


@pytest.mark.parametrize("harm", ["cut off", "a flipped bit", "without its seal", "missing"])
def test_a_damaged_job_is_taken_from_the_newest_checkpoint(folder: RunFolder, harm: str) -> None:
    folder.write_job("model: x\nrecipe: {epochs: 90}\n")
    assert repaired_job(folder, RUN_ID) is None
    content = folder.job.read_bytes()
    match harm:
        case "cut off":
            folder.job.write_bytes(content[:-14])
        case "a flipped bit":
            folder.job.write_bytes(content.replace(b"90", b"10"))
        case "without its seal":
            folder.job.write_bytes(content.partition(b"\n")[2])
        case _:
            folder.job.unlink()
    notice = repaired_job(folder, RUN_ID)
    assert notice
    assert "the job of the checkpoint checkpoint_c takes its place" in notice
    assert folder.job.read_text().endswith("\nmodel: x")
    assert repaired_job(folder, RUN_ID) is None


def test_a_damaged_job_without_any_checkpoint_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.write_job("model: x")
    folder.belongs_to(RUN_ID)
    folder.job.write_text("model: y")
    with pytest.raises(UserError, match="is damaged, and there is no checkpoint"):
        repaired_job(folder, RUN_ID)


def test_the_job_of_version_0_1_has_no_seal(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("model: x")
    assert repaired_job(RunFolder(tmp_path), RUN_ID) is None
