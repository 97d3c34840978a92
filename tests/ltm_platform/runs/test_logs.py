"""The log of a run, also while it is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ltm_platform.job import JobSpec
from ltm_platform.runs.logs import read
from ltm_platform.storage.run_folder import RunFolder

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.reserve(JobSpec.load("quickstart", [f"cluster.storage={tmp_path}"]), "mine")


def test_the_log_is_read_to_the_end_of_the_run(folder: RunFolder) -> None:
    lock = folder.locked()
    lock.__enter__()
    folder.log.write_text("first\n")
    pieces = read(folder, follow=True)
    assert next(pieces) == "first\n"
    with folder.log.open("a") as log:
        log.write("last\n")
    lock.__exit__(None, None, None)
    assert "".join(pieces) == "last\n"
    assert "".join(read(folder, follow=False)) == "first\nlast\n"
