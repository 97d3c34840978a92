"""The command line within the test's own process, and programs that race in others."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

import pytest

from ltm_platform.cli.app import main

if TYPE_CHECKING:
    from pathlib import Path


class Answer(NamedTuple):
    """How a command ended, and what it wrote."""

    code: int | str | None
    out: str
    err: str


Run = Callable[..., Answer]


@pytest.fixture
def call_here(capfd: pytest.CaptureFixture[str]) -> Run:
    def call(*args: str) -> Answer:
        capfd.readouterr()
        code: int | str | None = 0
        try:
            main(args)
        except SystemExit as end:
            code = end.code
        return Answer(code, *capfd.readouterr())

    return call


Race = Callable[..., list[str]]


@pytest.fixture
def race(tmp_path: Path) -> Race:
    """Runs a program once for each row of arguments, let go at the same moment; what they print.

    The program says "ready" in a line and then waits for one.
    """

    def run(program: str, *rows: tuple[str, ...]) -> list[str]:
        with ExitStack() as stack:
            processes = []
            for row in rows:
                process = subprocess.Popen(
                    [sys.executable, "-c", program, *row],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    cwd=tmp_path,
                )
                stack.callback(process.kill)
                processes.append(process)
            for process in processes:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
            for process in processes:
                assert process.stdin is not None
                process.stdin.write("go\n")
                process.stdin.flush()
            printed = [process.communicate(timeout=120)[0] for process in processes]
            assert [process.returncode for process in processes] == [0] * len(rows)
        return printed

    return run
