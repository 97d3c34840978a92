"""Where things are kept."""

from __future__ import annotations

import shutil
import socket
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from ltm_platform.checks import check
from ltm_platform.storage import contact
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


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a store where nothing listens, which is asked again and again."""
    monkeypatch.setattr(contact, "CONTACT_S", 0.3)
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    return endpoint


def test_a_store_that_is_away_is_told_for_the_field(away: str) -> None:
    asked = f"{away} (AWS_ENDPOINT_URL) gave no answer within 0.3 s; check AWS_ENDPOINT_URL"
    line = refusal("cluster.storage=s3://bucket/runs")
    assert f"cluster.storage is 's3://bucket/runs', which cannot be written to: {asked}" in line
    line = refusal("data.path=s3://bucket/images?region=us-east-1")
    assert "data.path: s3://bucket/images?region=us-east-1 cannot be reached: " in line
    assert asked in line


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        ("data.cache", "a folder on each node's own disk"),
        ("model.checkpoint", "a file or a checkpoint's folder"),
        ("recipe.distill.checkpoint", "a file or a checkpoint's folder"),
        ("recipe.distill.teacher", "the name of a network, or a file"),
    ],
)
def test_an_address_is_refused_where_only_a_path_is_read(key: str, wanted: str) -> None:
    teacher = ["recipe.distill.teacher=vit_nano_patch4_32"] * (key == "recipe.distill.checkpoint")
    line = refusal(*teacher, f"{key}=gs://bucket/w")
    assert f"{key} is 'gs://bucket/w', but must be {wanted}" in line


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
