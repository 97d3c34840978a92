"""What libraries print during a call."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
import threading
from contextlib import redirect_stdout
from typing import TYPE_CHECKING

import pytest

from ltm_platform.api.output import captured_output, shown
from ltm_platform.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

PRINTING = """
import os, subprocess, sys
from pathlib import Path
from ltm_platform.api.output import captured_output
from ltm_platform.cli.screen.console import dimmed, uncaptured

with (
    uncaptured() as console,
    captured_output(Path(sys.argv[1]), dimmed(console, verbose=sys.argv[2] == "echo")),
):
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
        timeout=300,
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


def test_a_notebooks_stream_is_captured_and_its_listener_is_not(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    cell = io.StringIO()  # no file descriptor, as a notebook's
    with redirect_stdout(cell), captured_output(log):
        print("of a library")
        shown(print)("of the caller")
        thread = threading.Thread(target=print, args=("of its thread",))
        thread.start()
        thread.join()
    assert cell.getvalue() == "of the caller\n"
    assert log.read_text().splitlines() == ["of a library", "of its thread"]


def test_loggers_write_to_the_log_whenever_their_library_was_imported(tmp_path: Path) -> None:
    """What began in the block writes after it to whatever the standard stream is then."""
    early, late = logging.getLogger("test.early"), logging.getLogger("test.late")
    log = tmp_path / "run.log"
    cell = io.StringIO()
    handlers = []
    try:
        with redirect_stdout(cell):
            for logger in (early, late):
                logger.propagate = False
            handlers.append((early, logging.StreamHandler(sys.stdout)))
            early.addHandler(handlers[0][1])
            with captured_output(log):
                handlers.append((late, logging.StreamHandler(sys.stdout)))
                late.addHandler(handlers[1][1])
                early.warning("early, during")
                late.warning("late, during")
            early.warning("early, after")
            late.warning("late, after")
            with captured_output(log):
                late.warning("late, again")
    finally:
        for logger, handler in handlers:
            logger.removeHandler(handler)
    assert cell.getvalue().splitlines() == ["early, after", "late, after"]
    assert log.read_text().splitlines() == ["early, during", "late, during", "late, again"]


def test_a_second_call_at_the_same_time_is_refused(tmp_path: Path) -> None:
    with (
        captured_output(tmp_path / "run.log"),
        pytest.raises(UserError, match="is going on in this process"),
        captured_output(tmp_path / "other.log"),
    ):
        pass
    with captured_output(tmp_path / "other.log"):
        print("free again")
    assert (tmp_path / "other.log").read_text() == "free again\n"


def test_a_listener_that_breaks_does_not_block_who_prints(tmp_path: Path) -> None:
    log = tmp_path / "run.log"

    def broken(line: str) -> None:
        raise ValueError(line)

    lines = [f"{number:07d}" for number in range(20_000)]  # more than a pipe holds
    with captured_output(log, broken):
        print("\n".join(lines))
    assert log.read_text().splitlines() == lines
