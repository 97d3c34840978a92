"""A job, checked against what there is."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from ltm_platform.checks import CheckedJob, check
from ltm_platform.errors import UserError
from ltm_platform.job import JobSpec
from ltm_platform.ray_cluster.resources import Resources

JOB = """\
model:
  backbone: vit_nano_patch4_32
  method: ltm
  compression_ratio: 0.7
  options:
    rank: 8
data:
  path: digits
recipe:
  global_batch: 64
cluster:
  workers: auto
"""
TWO_CPUS = Resources(cpus=2, gpus=0)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs").mkdir()


def load(*overrides: str, text: str = JOB) -> JobSpec:
    Path("jobs/x.yaml").write_text(text)
    return JobSpec.load("jobs/x.yaml", overrides)


def checked(*overrides: str, resources: Resources = TWO_CPUS, text: str = JOB) -> CheckedJob:
    return check(load(*overrides, text=text), resources)


def refusal(*overrides: str, resources: Resources = TWO_CPUS, text: str = JOB) -> str:
    """The one sentence of a job that is refused."""
    with pytest.raises(UserError) as error:
        check(load(*overrides, text=text), resources)
    (line,) = str(error.value).splitlines()
    return line


def pictures(folder: str, *, a_class: int) -> str:
    """A tree of two classes; a fifth of it, one image a class at least, is for validation."""
    for name in ("cat", "dog"):
        Path(folder, name).mkdir(parents=True)
        for number in range(a_class):
            Image.new("RGB", (12, 10), (20 * number, 100, 50)).save(f"{folder}/{name}/{number}.png")
    return folder
