"""A calm screen: all that libraries and their processes print goes to a log file."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from rich.console import Console

from ltm_platform.cli.screen.console import WIDTH_OF_FILES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


ECHO_GRACE_S = 2.0


@contextmanager
def captured_output(log: Path, *, echo: bool) -> Iterator[Console]:
    """Send file descriptors 1 and 2, which child processes inherit, to ``log``.

    Yields a console that still writes to the screen. With ``echo`` the screen shows every line of
    the log as well.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    screen, errors = os.dup(1), os.dup(2)
    with (
        log.open("ab", buffering=0) as file,
        os.fdopen(screen, "w") as stream,
        os.fdopen(errors, "w"),
    ):
        console = Console(file=stream, width=_width(screen), highlight=False, markup=False)
        echoing = _Echo(cast("BinaryIO", file), console) if echo else None
        target = echoing.descriptor if echoing else file.fileno()
        os.dup2(target, 1)
        os.dup2(target, 2)
        try:
            yield console
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(screen, 1)
            os.dup2(errors, 2)
            if echoing:
                echoing.close()


def _width(descriptor: int) -> int:
    """A terminal's width; where nobody looks, lines are kept whole for scripts that read them."""
    if not os.isatty(descriptor):
        return WIDTH_OF_FILES
    return os.get_terminal_size(descriptor).columns or 80


class _Echo:
    """The writing end of a pipe whose lines go both to the log and to the screen."""

    def __init__(self, log: BinaryIO, console: Console) -> None:
        self._log, self._console = log, console
        reading, self.descriptor = os.pipe()
        self._lines = os.fdopen(reading, "rb")
        self._thread = threading.Thread(target=self._copy, name="echo", daemon=True)
        self._thread.start()

    def _copy(self) -> None:
        for line in self._lines:
            self._log.write(line)
            self._console.print(line.decode(errors="replace").rstrip(), style="dim")

    def close(self) -> None:
        """Copy what has been written; a child that lives on and holds the pipe is not awaited."""
        os.close(self.descriptor)
        self._thread.join(timeout=ECHO_GRACE_S)


class Doubled:
    """A console whose lines are also in a file: whoever reads that later sees all of the run."""

    def __init__(self, console: Console, log: Path) -> None:
        self._console, self._log = console, log

    def print(self, *objects: object, **options: Any) -> None:
        self._console.print(*objects, **options)
        with self._log.open("a") as file:
            Console(file=file, width=WIDTH_OF_FILES, highlight=False, markup=False).print(*objects)
