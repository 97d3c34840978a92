"""What may be overridden, and what not."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltm_platform.checks import check
from ltm_platform.errors import UserError

from .conftest import TWO_CPUS, checked, load, pictures, refusal


def test_a_storage_that_cannot_be_written_to_is_refused() -> None:
    Path("file").write_text("")
    line = refusal("cluster.storage=file/runs")
    assert line.startswith("--set cluster.storage=file/runs: cluster.storage is '")
    assert "cannot be written to" in line


def test_a_damaged_image_is_found_before_the_start() -> None:
    pictures("photos", a_class=8)
    for damaged in Path("photos").rglob("*.png"):
        damaged.write_bytes(b"no image")
    line = refusal("data.path=photos", "recipe.global_batch=4")
    assert line.startswith("--set data.path=photos: data.path: ")
    assert "is damaged" in line


def test_what_is_forced_is_told_instead() -> None:
    job = load("cluster.workers=4", "tracking.uri=http://127.0.0.1:1")
    got = check(job, TWO_CPUS, force=True)
    server, workers = got.problems
    assert "no MLflow server answers" in server
    assert "only 2 CPUs" in workers
    assert got.batch.workers == 4
    assert checked("cluster.workers=2").problems == ()


def test_a_mistake_in_the_job_cannot_be_forced() -> None:
    with pytest.raises(UserError, match="did you mean 'ltm'"):
        check(load("model.method=ltn"), TWO_CPUS, force=True)
