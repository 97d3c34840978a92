"""The checkpoints that a run has, by what their folders say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ltm_platform.errors import UserError
from ltm_platform.job import JobSpec
from ltm_platform.storage import checkpoints, manifest
from ltm_platform.storage.files import STOP_FILE
from ltm_platform.storage.run_folder import RunFolder

from .conftest import TOP1
from .sealing import RUN_ID

if TYPE_CHECKING:
    from pathlib import Path


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


def test_a_checkpoints_files_can_be_had_here(folder: RunFolder) -> None:
    for one in checkpoints.stored(folder):
        path = one.fetch()
        assert path == folder.path / one.path.name
        assert (path / "weights").read_text() == path.name
        assert one.fetch() == path
    manifest.check(path)


@pytest.mark.parametrize("folder", ["in an object store"], indirect=True)
def test_a_damaged_copy_of_what_lies_in_an_object_store_is_made_again(folder: RunFolder) -> None:
    last = checkpoints.stored(folder)[-1]
    for content in ("else", last.path.name[:-1] + "x"):
        (last.fetch() / "weights").write_text(content)
        assert (last.checked(RUN_ID) / "weights").read_text() == last.path.name
    (last.source / "weights").write(b"else")
    last.checked(RUN_ID)  # the copy is still whole
    (last.path / "weights").write_text("else")
    with pytest.raises(UserError, match="checkpoint_c is damaged: weights has"):
        last.checked(RUN_ID)


def test_who_asks_for_a_stop_is_heard_until_the_next_start(folder: RunFolder) -> None:
    folder.request_stop()
    assert (folder.storage / STOP_FILE).exists()
    with folder.locked():
        assert not (folder.storage / STOP_FILE).exists()


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
