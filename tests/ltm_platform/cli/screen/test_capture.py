"""What libraries print while a command is carried out."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

PRINTING = """
import os, subprocess, sys
from pathlib import Path
from ltm_platform.cli.screen.capture import captured_output

with captured_output(Path(sys.argv[1]), echo=sys.argv[2] == "echo") as console:
    print("of Python")
    os.write(1, b"of the process\\n")
    os.write(2, b"its errors\\n")
    subprocess.run(["sh", "-c", "echo of a child; echo its errors too >&2"])
    console.print("for the user")
    {at_the_end}
print("after")
print("errors after", file=sys.stderr)
"""
CAPTURED = ["of Python", "of the process", "its errors", "of a child", "its errors too"]


def printing(log: Path, *, echo: bool, at_the_end: str = "") -> subprocess.CompletedProcess[str]:
    program = PRINTING.format(at_the_end=at_the_end)
    return subprocess.run(
        [sys.executable, "-c", program, str(log), "echo" if echo else "quiet"],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_what_is_printed_goes_to_the_log_alone(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    done = printing(log, echo=False)
    assert done.stdout.splitlines() == ["for the user", "after"]
    assert done.stderr.splitlines() == ["errors after"]
    assert sorted(log.read_text().splitlines()) == sorted(CAPTURED)


def test_with_echo_it_goes_to_both_to_the_last_line(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    done = printing(log, echo=True)
    assert sorted(log.read_text().splitlines()) == sorted(CAPTURED)
    *during, last = done.stdout.splitlines()
    assert sorted(during) == sorted([*CAPTURED, "for the user"])
    assert last == "after"
    assert done.stderr.splitlines() == ["errors after"]


@pytest.mark.parametrize("echo", [False, True])
def test_the_screen_is_given_back_after_an_error(tmp_path: Path, echo: bool) -> None:
    log = tmp_path / "run.log"
    done = printing(log, echo=echo, at_the_end="raise RuntimeError('boom')")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "RuntimeError: boom"
    assert "boom" not in log.read_text()


def test_a_log_is_continued(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    log.write_text("of the first attempt\n")
    printing(log, echo=False)
    assert log.read_text().splitlines()[0] == "of the first attempt"
    assert len(log.read_text().splitlines()) == 1 + len(CAPTURED)
