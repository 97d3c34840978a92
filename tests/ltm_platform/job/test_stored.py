"""Jobs that an earlier version stored do what that version did."""

from __future__ import annotations

import tarfile
from typing import TYPE_CHECKING

import pytest

from ltm_platform.job import JobSpec, changes
from ltm_platform.storage.manifest import JOB_FILE, job_of

from ...version_0_1 import ARCHIVE

if TYPE_CHECKING:
    from pathlib import Path

MEMBER = "home/runs/stopped/job.yaml"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A job that version 0.1 stored."""
    with tarfile.open(ARCHIVE) as archive:
        file = archive.extractfile(MEMBER)
        assert file
        (tmp_path / JOB_FILE).write_bytes(file.read())
    return tmp_path / JOB_FILE


def shown(job: JobSpec) -> tuple[bool, str, str]:
    return job.data.exif, job.data.background, job.data.decode


def test_a_run_of_version_0_1_keeps_the_pixels_that_it_was_trained_with(old: Path) -> None:
    assert "exif" not in old.read_text()
    before = JobSpec.load_stored(old)
    resumed = JobSpec.load_stored(old, ["recipe.epochs=9"])
    assert (
        shown(before) == shown(resumed) == shown(job_of(old.parent)) == (False, "hidden", "exact")
    )
    assert list(changes(before, resumed)) == ["recipe.epochs"]
    # and what it stores from here on says so
    old.write_text(resumed.to_yaml())
    assert shown(JobSpec.load(old)) == (False, "hidden", "exact")


def test_a_stored_run_from_before_keeps_the_precision_that_it_had(old: Path) -> None:
    text = old.read_text()
    assert "precision: fp32" in text
    old.write_text(text.replace("  precision: fp32\n", ""))
    assert JobSpec.load_stored(old).engine.precision == "fp32"
    assert JobSpec.load_stored(old).engine.channels_last is False
    assert JobSpec.load(old).engine.precision == "auto"


def test_a_new_run_of_an_old_job_file_has_the_new_defaults(old: Path) -> None:
    assert shown(JobSpec.load(old)) == (True, "white", "fast")


def test_fields_that_a_stored_job_has_are_kept(tmp_path: Path) -> None:
    job = JobSpec.load("quickstart", ["data.background=black"])
    (tmp_path / JOB_FILE).write_text(job.to_yaml())
    assert shown(job_of(tmp_path)) == (True, "black", "fast")
    assert JobSpec.load_stored(tmp_path / JOB_FILE) == job
