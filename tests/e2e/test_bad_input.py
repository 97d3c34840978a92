"""Mistakes cost one sentence, exit code 2, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Cli

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


def assert_refused(cli: Cli, home: Path, words: list[str], *args: str) -> None:
    before = sorted(home.rglob("*"))
    done = cli("submit", *args)
    assert done.returncode == 2, done.stdout + done.stderr
    message = done.stderr.strip()
    assert len(message.splitlines()) == 1, message
    assert all(word in message for word in words), message
    assert "Traceback" not in message
    assert done.stdout == ""
    assert sorted(home.rglob("*")) == before, "something was half-written"


@pytest.mark.parametrize("mistake", BROKEN)
def test_a_broken_job_file(mistake: str, cli: Cli, home: Path, tmp_path: Path) -> None:
    (right, wrong), words = BROKEN[mistake]
    assert right in GOOD
    (tmp_path / "job.yaml").write_text(GOOD.replace(right, wrong, 1))
    assert_refused(cli, home, words, str(tmp_path / "job.yaml"))


def test_a_missing_file(cli: Cli, home: Path, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(GOOD)
    assert_refused(cli, home, ["jobb.yaml", "job.yaml"], str(tmp_path / "jobb.yaml"))


def test_imagenet_is_not_here(cli: Cli, home: Path) -> None:
    assert_refused(
        cli,
        home,
        ["data/imagenet", "image-net.org", "--set data.path=FOLDER"],
        "jobs/ltm_vit_b.yaml",
    )
