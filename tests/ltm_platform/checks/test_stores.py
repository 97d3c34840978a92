"""Where things are kept."""

from __future__ import annotations

import pytest

from ltm_platform.storage.path import storage_path

from .conftest import checked, refusal


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
