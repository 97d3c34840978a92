"""Terminals, pipes, proxies and folders as users have them: one sentence, or it works."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ltm_platform.cli import app

if TYPE_CHECKING:
    from pathlib import Path

    from tests.ltm_platform.conftest import Run

COMMAND = [sys.executable, "-c", "from ltm_platform.cli.app import main; main()"]


def test_a_pipe_that_closes_early_ends_the_command_quietly() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ran = subprocess.run([*COMMAND, "--help"], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (ran.returncode, ran.stderr) == (1, b"")  # as click has it


def test_a_terminal_that_knows_ascii_alone_shows_the_rest_escaped(tmp_path: Path) -> None:
    ascii_alone = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    ran = subprocess.run(
        [*COMMAND, "validate", str(tmp_path / "größe.yaml")],
        env=os.environ | ascii_alone,
        capture_output=True,
        check=False,
    )
    assert ran.returncode == 2
    assert ran.stderr.isascii()
    assert b".yaml does not exist" in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["submit quickstart", "plan quickstart", "cluster up --local"])
def test_a_home_that_cannot_be_written_is_one_sentence(
    command: str, call_here: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    home = tmp_path / "file" / "home"  # unlike one without the right to write, also for root
    monkeypatch.setenv("LTM_PLATFORM_HOME", str(home))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    answer = call_here(*command.split())
    assert answer.code == 2
    assert "Traceback" not in answer.err
    told = [line for line in (answer.out + answer.err).splitlines() if str(tmp_path) in line]
    assert len(told) == 1
    assert "Not a directory" in told[0]


def test_a_home_without_anything_lists_nothing(
    call_here: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LTM_PLATFORM_HOME", str(tmp_path / "none"))
    assert call_here("list").code == 0
    assert not (tmp_path / "none").exists()


def test_a_proxy_is_not_asked_for_what_runs_here(
    call_here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "example.org")
    monkeypatch.setenv("NO_PROXY", "")
    call_here("--version")
    assert os.environ["no_proxy"] == "example.org,127.0.0.1,localhost,::1"
    assert os.environ["NO_PROXY"] == "127.0.0.1,localhost,::1"
    call_here("--version")
    assert os.environ["NO_PROXY"] == "127.0.0.1,localhost,::1"


def test_what_cannot_be_written_is_named(call_here: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied", "/somewhere/file")

    monkeypatch.setattr(app.cli, "main", refuse)
    answer = call_here()
    assert answer.code == 2
    assert answer.err == "/somewhere/file cannot be read or written: Permission denied\n"
