"""`submit --smoke`: a job is tried for real where it is to run, and nothing of it stays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from PIL import Image

from ltm_platform import tracking

from .conftest import settings

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Cli

pytestmark = pytest.mark.slow


def test_a_job_is_tried_and_nothing_of_it_stays(
    cli: Cli, store: str, home: Path, tiny_job: Path
) -> None:
    done = cli(
        "submit", str(tiny_job), "--smoke", *settings("engine.zero_stage=2", "cluster.workers=2")
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    assert lines[0] == "tiny-smoke-1"
    assert sum(line.startswith("epoch 1/2 ") for line in lines) == 1
    assert "going on after epoch 1, step 3 of 6, with 2 workers" in lines
    assert sum(line.startswith("epoch 2/2 ") for line in lines) == 1
    shown = {line[:12].strip(): line[12:] for line in lines[-8:]}
    assert "images/s (the network alone " in shown["training"]
    assert shown["validation"].endswith(" for 359 images")
    assert shown["whole job"].endswith(" for 2 epochs of 1,438 images")
    assert not (home / "runs" / "tiny-smoke-1").exists()
    assert not [run for run in tracking.list_runs(store) if "smoke" in run.name]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes, with one picture that is none, which the checks do not look at."""
    for split in ("train", "val"):
        for name in "ab":
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(20):
                file = tmp_path / split / name / f"{number:02d}.png"
                Image.new("RGB", (32, 32), (10 * number, 100, 50)).save(file)
    (tmp_path / "train" / "a" / "05.png").write_bytes(b"no image")
    return tmp_path


def test_of_a_job_that_fails_the_log_stays(
    cli: Cli, store: str, home: Path, tiny_job: Path, pictures: Path
) -> None:
    data = settings(f"data.path={pictures}", "data.allow_bad=0", "recipe.global_batch=8")
    done = cli("submit", str(tiny_job), "--smoke", "--name", "broken", *data)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "05.png" in done.stdout
    assert "broken is removed but for its log" in done.stdout
    assert [file.name for file in (home / "runs" / "broken").iterdir()] == ["run.log"]
    assert not [run for run in tracking.list_runs(store) if run.name == "broken"]
