"""Which checkpoint a run goes on from, and what is removed before it does."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ltm_platform import checkpoints
from ltm_platform.errors import UserError
from ltm_platform.launch import history
from ltm_platform.launch.folder import RunFolder

if TYPE_CHECKING:
    from pathlib import Path

# The order of Ray's record is by score; the report index tells the order in time.
TOP1 = {"checkpoint_a": 90.0, "checkpoint_b": 95.0, "checkpoint_c": None}
RECORDED = ["checkpoint_c", "checkpoint_a", "checkpoint_b"]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run with three checkpoints, the last of them within an epoch, and a half-written one."""
    run = RunFolder(tmp_path / "run")
    for steps, name in enumerate(TOP1, start=1):
        path = run.path / name
        path.mkdir(parents=True)
        (path / "weights").write_text(name)
        checkpoints.seal(path, ["weights"], rank=0, world_size=1, steps_done=steps)
    (run.path / "checkpoint_half").mkdir()
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
    (run.path / "checkpoint_manager_snapshot.json").write_text(json.dumps(record))
    return run


def names(folder: RunFolder) -> list[str]:
    return [one.path.name for one in history.stored(folder)]


def test_checkpoints_come_in_the_order_of_time_and_the_best_is_a_validated_one(
    folder: RunFolder,
) -> None:
    assert names(folder) == list(TOP1)
    best = history.best(history.stored(folder))
    assert best
    assert best.path.name == "checkpoint_b"


def test_a_run_that_stored_nothing_has_no_checkpoints(tmp_path: Path) -> None:
    assert history.stored(RunFolder(tmp_path)) == []
    assert history.best([]) is None


def test_what_a_kill_left_half_written_is_removed_and_the_rest_kept(folder: RunFolder) -> None:
    history.prepare_to_resume(folder, None)
    assert sorted(path.name for path in folder.path.glob("checkpoint_*/")) == list(TOP1)


def test_an_earlier_checkpoint_becomes_the_last(folder: RunFolder) -> None:
    history.prepare_to_resume(folder, "checkpoint_b")
    assert names(folder) == ["checkpoint_a", "checkpoint_b"]
    record = json.loads((folder.path / "checkpoint_manager_snapshot.json").read_text())
    assert record["latest_checkpoint_result"]["checkpoint_dir_name"] == "checkpoint_b"
    assert record["other"] == "kept"
    assert not (folder.path / "checkpoint_c").exists()


def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_offered(folder: RunFolder) -> None:
    (folder.path / "checkpoint_c" / "weights").write_text("else")
    with pytest.raises(UserError) as error:
        history.prepare_to_resume(folder, None)
    assert "checkpoint_c is damaged: weights has" in str(error.value)
    assert "ltm-platform resume run --from checkpoint_b" in str(error.value)
    assert names(folder) == list(TOP1)
    assert (folder.path / "checkpoint_half").exists(), "nothing is changed before the checks"


def test_an_unknown_checkpoint_is_refused_with_the_nearest(folder: RunFolder) -> None:
    with pytest.raises(UserError, match="did you mean 'checkpoint_a'"):
        history.prepare_to_resume(folder, "checkpoint_aa")
