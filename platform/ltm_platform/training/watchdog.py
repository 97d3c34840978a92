"""A rank that hangs ends itself, so that the run can go on from its last checkpoint."""

from __future__ import annotations

import faulthandler
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = TypeVar("T")

STDERR = 2  # the descriptor: Ray has its own idea of sys.stderr


class Watchdog:
    """Ends the process, with the stacks of its threads in the log, after a time without progress.

    It works in the interpreter's own C thread: also when Python is stuck in a collective or holds
    its lock.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self.alive()

    def alive(self) -> None:
        """Progress was made: the time starts again."""
        faulthandler.dump_traceback_later(self._timeout_s, exit=True, file=STDERR)

    def watched(self, items: Iterable[T]) -> Iterator[T]:
        """The items; each is progress."""
        for item in items:
            self.alive()
            yield item

    def close(self) -> None:
        faulthandler.cancel_dump_traceback_later()
