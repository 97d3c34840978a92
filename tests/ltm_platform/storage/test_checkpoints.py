"""Which checkpoint a run goes on from, and what is removed before it does."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ltm_platform.errors import UserError
from ltm_platform.job import JobSpec
from ltm_platform.storage import checkpoints, manifest
from ltm_platform.storage.files import STOP_FILE
from ltm_platform.storage.path import storage_path
from ltm_platform.storage.run_folder import RunFolder

if TYPE_CHECKING:
    from pathlib import Path

# The order of Ray's record is by score; the report index tells the order in time.
TOP1 = {"checkpoint_a": 90.0, "checkpoint_b": 95.0, "checkpoint_c": None}
RECORD = "checkpoint_manager_snapshot.json"
RECORDED = ["checkpoint_c", "checkpoint_a", "checkpoint_b"]


@pytest.fixture(params=["here", "in an object store"])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> RunFolder:
    """A run with three checkpoints, the last of them within an epoch, and a half-written one."""
    run = RunFolder(tmp_path / "runs" / "run")
    if request.param == "here":
        write(run.path)
        return run
    run.path.mkdir(parents=True)
    run.store_at(f"{request.getfixturevalue('bucket')}/runs")
    write(tmp_path / "elsewhere")
    run.storage.put(tmp_path / "elsewhere")
    return run


def write(folder: Path) -> None:
    """What Ray Train stores of that run."""
    for steps, name in enumerate(TOP1, start=1):
        path = folder / name
        path.mkdir(parents=True)
        (path / "weights").write_text(name)
        (path / "job.yaml").write_text("model: x")
        manifest.seal(path, ["weights"], rank=0, world_size=1, steps_done=steps)
    (folder / "checkpoint_half").mkdir()
    (folder / "checkpoint_half" / "weights").write_text("cut o")
    results = [
        {
            "checkpoint_dir_name": name,
            "metrics": {} if TOP1[name] is None else {"val/top1": TOP1[name]},
        }
        for name in RECORDED
    ]
    record = {
        "checkpoint_results": results,
        "checkpoint_report_indices": [list(TOP1).index(name) for name in RECORDED],
        "latest_checkpoint_result": results[0],
        "other": "kept",
    }
    (folder / RECORD).write_text(json.dumps(record))


def names(folder: RunFolder) -> list[str]:
    return [one.path.name for one in checkpoints.stored(folder)]


def test_checkpoints_come_in_the_order_of_time_and_the_best_is_a_validated_one(
    folder: RunFolder,
) -> None:
    assert names(folder) == list(TOP1)
    best = checkpoints.best(checkpoints.stored(folder))
    assert best
    assert best.path.name == "checkpoint_b"


def test_a_run_that_stored_nothing_has_no_checkpoints(tmp_path: Path) -> None:
    assert checkpoints.stored(RunFolder(tmp_path)) == []
    assert checkpoints.best([]) is None


def test_what_a_kill_left_half_written_is_removed_and_the_rest_kept(folder: RunFolder) -> None:
    checkpoints.prepare_to_resume(folder, None)
    assert folder.storage.folders() == list(TOP1)


def test_an_earlier_checkpoint_becomes_the_last(folder: RunFolder) -> None:
    checkpoints.prepare_to_resume(folder, "checkpoint_b")
    assert names(folder) == ["checkpoint_a", "checkpoint_b"]
    record = json.loads((folder.storage / RECORD).read())
    assert record["latest_checkpoint_result"]["checkpoint_dir_name"] == "checkpoint_b"
    assert record["other"] == "kept"
    assert folder.storage.folders() == ["checkpoint_a", "checkpoint_b"]


def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_offered(folder: RunFolder) -> None:
    (folder.storage / "checkpoint_c" / "weights").write(b"else")
    with pytest.raises(UserError) as error:
        checkpoints.prepare_to_resume(folder, None)
    assert "checkpoint_c is damaged: weights has" in str(error.value)
    assert "ltm-platform resume run --from checkpoint_b" in str(error.value)
    assert names(folder) == list(TOP1)
    assert "checkpoint_half" in folder.storage.folders(), "nothing is changed before the checks"


def test_an_unknown_checkpoint_is_refused_with_the_nearest(folder: RunFolder) -> None:
    with pytest.raises(UserError, match="did you mean 'checkpoint_a'"):
        checkpoints.prepare_to_resume(folder, "checkpoint_aa")


def test_a_checkpoints_files_can_be_had_here(folder: RunFolder) -> None:
    for one in checkpoints.stored(folder):
        path = one.fetch()
        assert path == folder.path / one.path.name
        assert (path / "weights").read_text() == path.name
        assert one.fetch() == path
    manifest.check(path)


def test_who_asks_for_a_stop_is_heard_until_the_next_start(folder: RunFolder) -> None:
    folder.request_stop()
    assert (folder.storage / STOP_FILE).exists()
    with folder.locked():
        assert not (folder.storage / STOP_FILE).exists()


def test_what_lies_in_a_store_outlives_the_machine(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LTM_PLATFORM_HOME", str(tmp_path / "home"))
    address = f"{bucket}/runs"
    assert checkpoints.restored_folder("run", address) is None
    assert checkpoints.restored_folder("run", "None") is None
    write(tmp_path / "elsewhere")
    (storage_path(address) / "run").put(tmp_path / "elsewhere")
    again = checkpoints.restored_folder("run", address)
    assert again
    assert again.path == tmp_path / "home" / "runs" / "run"
    assert again.job.read_text() == "model: x"
    assert names(again) == list(TOP1)


def test_a_name_in_a_store_is_taken_for_every_machine(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = JobSpec.load("quickstart", [f"cluster.storage={bucket}/runs"])
    for machine, name in (("one", "quickstart-1"), ("two", "quickstart-2")):
        monkeypatch.setenv("LTM_PLATFORM_HOME", str(tmp_path / machine))
        folder = RunFolder.reserve(job)
        assert folder.path == tmp_path / machine / "runs" / name
        assert str(folder.storage) == f"{bucket}/runs/{name}"
        (folder.storage / "log").write(b"")
    with pytest.raises(UserError, match="'quickstart-1' exists already"):
        RunFolder.reserve(job, "quickstart-1")
