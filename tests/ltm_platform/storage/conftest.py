"""A run with three checkpoints, here and in an object store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ltm_platform.compat.ray_checkpoints import RECORD_FILE
from ltm_platform.compat.ray_train import checkpoint_record
from ltm_platform.storage.run_folder import RunFolder

from .sealing import RUN_ID, seal

if TYPE_CHECKING:
    from pathlib import Path

TOP1 = {"checkpoint_a": 90.0, "checkpoint_b": 95.0, "checkpoint_c": None}


@pytest.fixture(params=["here", "in an object store"])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> RunFolder:
    """A run with three checkpoints, the last of them within an epoch, and a half-written one."""
    run = RunFolder(tmp_path / "runs" / "run")
    if request.param == "here":
        write_run(run.path)
    else:
        run.path.mkdir(parents=True)
        run.store_at(f"{request.getfixturevalue('bucket')}/runs")
        write_run(tmp_path / "elsewhere" / "run")
        run.storage.put(tmp_path / "elsewhere" / "run")
    run.belongs_to(RUN_ID)
    return run


def write_run(folder: Path) -> None:
    """What training has stored of that run, and Ray Train's record of it."""
    found = []
    for steps, (name, top1) in enumerate(TOP1.items(), start=1):
        path = folder / name
        path.mkdir(parents=True)
        (path / "weights").write_text(name)
        (path / "job.yaml").write_text("model: x")
        metrics = {} if top1 is None else {"val/top1": top1}
        seal(path, ["weights", "job.yaml"], steps_done=steps, metrics=metrics)
        found.append((name, metrics))
    (folder / "checkpoint_half").mkdir()
    (folder / "checkpoint_half" / "weights").write_text("cut o")
    root = str(folder.parent)
    (folder / RECORD_FILE).write_bytes(checkpoint_record(root, folder.name, found, "val/top1"))
