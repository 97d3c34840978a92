"""The data, and the batch that fits them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltm_platform.checks import check
from ltm_platform.ray_cluster.resources import Resources

from .conftest import JOB, TWO_CPUS, checked, pictures, refusal


def test_missing_data_is_told_with_its_place() -> None:
    line = refusal(text=JOB.replace("digits", "photos"))
    assert line.startswith("jobs/x.yaml:8: data.path: photos not found ")
    assert "data.path=FOLDER" in line


def test_missing_imagenet_is_told_with_where_to_get_it() -> None:
    assert "https://image-net.org" in refusal("data.path=data/imagenet")


def test_a_small_image_folder_reduces_the_global_batch_and_it_is_said() -> None:
    pictures("photos", a_class=4)  # 3 + 3 to train on
    got = checked("data.path=photos", "recipe.micro_batch=16", "cluster.workers=2")
    assert got.batch.global_batch == got.job.recipe.global_batch == 6
    assert (got.batch.micro_batch, got.batch.workers) == (3, 2)
    (notice,) = got.notices
    assert "recipe.global_batch is 6 instead of 64" in notice
    assert "6 images" in notice


def test_a_reduced_batch_is_shared_by_the_workers() -> None:
    pictures("photos", a_class=4)
    got = checked("data.path=photos", "cluster.workers=4", resources=Resources(cpus=4, gpus=0))
    assert (got.batch.global_batch, got.batch.micro_batch) == (4, 1)


def test_a_batch_that_fits_is_left_alone() -> None:
    got = checked()
    assert (got.job.recipe.global_batch, got.notices) == (64, ())


def test_fewer_images_than_workers_are_refused() -> None:
    pictures("photos", a_class=2)
    four = Resources(cpus=4, gpus=0)
    line = refusal(
        "data.path=photos", "cluster.workers=3", "recipe.global_batch=63", resources=four
    )
    assert line.startswith("--set cluster.workers=3: cluster.workers is 3, ")
    assert "only 2 images" in line


def test_relative_paths_become_absolute(tmp_path: Path) -> None:
    pictures("photos", a_class=2)
    got = checked("data.path=photos", "cluster.storage=../storage")
    assert got.job.data.path == str(tmp_path / "photos")
    assert got.job.cluster.storage == str(tmp_path.parent / "storage")


def test_the_users_home_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    pictures("photos", a_class=2)
    got = checked("data.path=~/photos", "cluster.storage=~/storage")
    assert got.job.data.path == str(tmp_path / "photos")
    assert got.job.cluster.storage == str(tmp_path / "storage")


@pytest.mark.parametrize("path", ["digits", "photos"])
def test_copies_are_made_of_shards_alone(path: str) -> None:
    pictures("photos", a_class=3)
    line = refusal(f"data.path={path}", "data.cache=disk")
    assert line.startswith("--set data.cache=disk: data.cache holds copies of shards, but ")
    assert f"{path!r} has none" in line
    assert not Path("disk").exists()


def test_a_ready_job_can_be_checked_again() -> None:
    pictures("photos", a_class=4)
    once = checked("data.path=photos")
    again = check(once.job, TWO_CPUS)
    assert (again.job, again.batch, again.notices) == (once.job, once.batch, ())


def test_a_bad_image_of_those_that_are_looked_at_is_no_reason_not_to_start() -> None:
    pictures("photos", a_class=20)
    for file in Path("photos/cat").iterdir():
        file.write_bytes(b"no image")
    line = refusal("data.path=photos", "recipe.global_batch=4")
    assert "2 of 32 training images, and data.allow_bad of 0.001 allows 0" in line
    assert checked("data.path=photos", "recipe.global_batch=4", "data.allow_bad=0.3")
