"""Mistakes cost one sentence, exit code 2, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.ltm_platform.conftest import Answer, Run

GOOD = """\
model:
  backbone: vit_nano_patch4_32
  method: ltm
  compression_ratio: 0.7
data:
  path: digits
recipe:
  epochs: 2
  warmup_epochs: 0
  global_batch: 64
cluster:
  workers: 2
"""

BROKEN = {
    "a typo in a key": (("epochs: 2", "epoch: 2"), ["job.yaml:8", "recipe.epoch", "'epochs'"]),
    "a typo in the method": (("method: ltm", "method: lmt"), ["job.yaml:3", "lmt", "'ltm'"]),
    "a typo in the backbone": (
        ("vit_nano_patch4_32", "vit_nano_patch_32"),
        ["job.yaml:2", "vit_nano_patch_32", "vit_nano_patch4_32"],
    ),
    "a string for a number": (
        ("epochs: 2", "epochs: two"),
        ["job.yaml:8", "recipe.epochs", "'two'", "whole number"],
    ),
    "ratio 0": (("0.7", "0"), ["job.yaml:4", "compression_ratio", "greater than 0", "at most 1"]),
    "ratio 1.5": (("0.7", "1.5"), ["job.yaml:4", "compression_ratio", "1.5", "at most 1"]),
    "ratio -1": (("0.7", "-1"), ["job.yaml:4", "compression_ratio", "-1", "greater than 0"]),
    "bad YAML": (("method: ltm", "method: [ltm"), ["job.yaml:"]),
    "cyclic extends": (("model:\n", "extends: job.yaml\nmodel:\n"), ["job.yaml -> "]),
    "a batch that cannot be divided": (
        ("global_batch: 64", "global_batch: 63"),
        ["job.yaml:10", "63", "2 workers", "62 or 64"],
    ),
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty, of a user with nothing set."""
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    monkeypatch.setenv("LTM_PLATFORM_HOME", str(home))
    return home


def assert_refused(answer: Answer, home: Path, words: list[str]) -> None:
    assert answer.code == 2, answer
    assert len(answer.err.strip().splitlines()) == 1, answer.err
    assert all(word in answer.err for word in words), answer.err
    assert "Traceback" not in answer.err
    assert answer.out == ""
    assert not home.exists(), "something was half-written"


@pytest.mark.parametrize("mistake", BROKEN)
def test_a_broken_job_file(mistake: str, call_here: Run, home: Path, tmp_path: Path) -> None:
    (right, wrong), words = BROKEN[mistake]
    assert right in GOOD
    (tmp_path / "job.yaml").write_text(GOOD.replace(right, wrong, 1))
    assert_refused(call_here("submit", str(tmp_path / "job.yaml")), home, words)


@pytest.mark.parametrize("name", ["../../x", "a b", "$(touch x)", ""])
def test_a_name_stays_in_its_folder(call_here: Run, home: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "job.yaml").write_text(GOOD)
    refused = call_here("submit", str(tmp_path / "job.yaml"), "--name", name)
    assert_refused(refused, home, [f"name is {name!r}"])
