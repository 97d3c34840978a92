"""A calm screen: all that libraries and their processes print goes to a log file."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def captured_output(log: Path, *, echo: bool) -> Iterator[Console]:
    """Send file descriptors 1 and 2, which child processes inherit, to ``log``.

    Yields a console that still writes to the screen. With ``echo`` the screen shows every line of
    the log as well.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    screen, errors = os.dup(1), os.dup(2)
    # Where nobody looks, lines are kept whole for scripts that read them.
    width = os.get_terminal_size(screen).columns if os.isatty(screen) else 1000
    file = log.open("ab", buffering=0)
    with os.fdopen(screen, "w", closefd=False) as stream:
        console = Console(file=stream, width=width, highlight=False, markup=False)
        target = _echoing(file, console) if echo else file.fileno()
        os.dup2(target, 1)
        os.dup2(target, 2)
        try:
            yield console
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(screen, 1)
            os.dup2(errors, 2)
    for descriptor in (screen, errors):
        os.close(descriptor)


def _echoing(log: object, console: Console) -> int:
    """The writing end of a pipe whose lines go both to the log and to the screen."""
    reading, writing = os.pipe()

    def copy() -> None:
        with os.fdopen(reading, "rb") as lines:
            for line in lines:
                log.write(line)  # type: ignore[attr-defined]
                console.print(line.decode(errors="replace").rstrip(), style="dim")

    threading.Thread(target=copy, name="echo", daemon=True).start()
    return writing
