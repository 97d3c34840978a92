"""Mistakes cost one sentence, exit code 2, and nothing else.

More of them, in the test's own process: tests/ltm_platform/cli/test_bad_input.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Cli

pytestmark = pytest.mark.slow


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


def test_a_broken_job_file(cli: Cli, home: Path, tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text("extends: quickstart\nrecipe:\n  epoch: 2\n")
    assert_refused(cli, home, ["job.yaml:3", "recipe.epoch", "'epochs'"], str(job))


def test_a_missing_file(cli: Cli, home: Path, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("extends: quickstart\n")
    assert_refused(cli, home, ["jobb.yaml", "job.yaml"], str(tmp_path / "jobb.yaml"))


def test_imagenet_is_not_here(cli: Cli, home: Path) -> None:
    assert_refused(
        cli,
        home,
        ["data/imagenet", "image-net.org", "--set data.path=FOLDER"],
        "jobs/ltm_vit_b.yaml",
    )


def test_a_name_stays_in_its_folder(cli: Cli, home: Path, tiny_job: Path) -> None:
    assert_refused(cli, home, ["name is '../../x'"], str(tiny_job), "--name", "../../x")
