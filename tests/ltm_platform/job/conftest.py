"""A broken job, in a folder of its own, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltm_platform.errors import UserError
from ltm_platform.job import JobSpec

GOOD = """\
model:
  backbone: vit_micro_patch4_32
data:
  path: digits
"""


@pytest.fixture
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs").mkdir()


def sentence(text: str | bytes, *overrides: str) -> str:
    """The error of the job file ``jobs/x.yaml`` with that content."""
    raw = text if isinstance(text, bytes) else text.encode()
    Path("jobs/x.yaml").write_bytes(raw)
    return failure("jobs/x.yaml", *overrides)


def failure(name: str, *overrides: str) -> str:
    with pytest.raises(UserError) as error:
        JobSpec.load(name, overrides)
    return str(error.value)
