"""Where things are kept."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from ltm_platform.checks import check
from ltm_platform.storage.path import storage_path

from .conftest import TWO_CPUS, checked, load, refusal

if TYPE_CHECKING:
    from pathlib import Path


def test_a_bucket_is_written_to_and_left_as_it_was(bucket: str) -> None:
    storage = f"{bucket}/runs"
    assert checked(f"cluster.storage={storage}").job.cluster.storage == storage
    assert storage_path(bucket).files(recursive=True) == []


def test_a_bucket_that_is_not_there_is_refused(bucket: str) -> None:
    line = refusal(f"cluster.storage={bucket}-else/runs")
    assert f"cluster.storage is '{bucket}-else/runs', which cannot be written to: " in line


def test_a_storage_that_nobody_can_open_is_refused() -> None:
    line = refusal("cluster.storage=ftp://server/runs")
    assert "cluster.storage: ftp://server/runs cannot be read as an address" in line


def test_a_folder_as_tracking_store_is_refused_with_its_place() -> None:
    line = refusal("tracking.uri=mlruns")
    assert line.startswith("--set tracking.uri=mlruns: tracking.uri is 'mlruns', ")


def test_a_password_has_no_place_in_a_job() -> None:
    line = refusal("tracking.uri=postgresql://me:secret@db/mlflow")
    assert "MLFLOW_TRACKING_URI" in line
    assert "secret" not in line


@pytest.mark.parametrize("key", ["data.path", "cluster.storage"])
def test_a_key_has_no_place_in_an_address(key: str) -> None:
    line = refusal(f"{key}=s3://AKIA:sesame@bucket/runs")
    assert line.startswith(f"{key} is s3://***@bucket/runs: a key in it would be kept")
    assert "sesame" not in line


def test_a_disk_without_room_for_the_checkpoints_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=6 * 2**20))
    line = refusal(f"cluster.storage={tmp_path}/runs")
    assert f"cluster.storage is '{tmp_path}/runs', where 6.0 MiB are free, but 4 check" in line
    assert "checkpoint.keep" in line
    assert checked(f"cluster.storage={tmp_path}/runs", "checkpoint.keep=1").problems == ()
    forced = check(load(), TWO_CPUS, force=True)
    assert any("6.0 MiB are free" in problem for problem in forced.problems)
    assert check(load(), TWO_CPUS, stored=20 * 2**20).problems == ()
