"""Ctrl-C and SIGTERM where an exception would leave a thing half-done, or become another one."""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

INTERRUPTED_S = 10.0
"""How long the end of a run that was interrupted waits for a store that is unavailable."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_AGAIN_S = 0.01


def _handlers() -> dict[signal.Signals, Callable[[int, FrameType | None], object]]:
    """Those of Python that there are for the two signals."""
    found = {s: signal.getsignal(s) for s in _SIGNALS}
    return {s: handler for s, handler in found.items() if callable(handler)}


def _in_main_thread() -> bool:
    """Signals interrupt it alone."""
    return threading.current_thread() is threading.main_thread()


@contextmanager
def no_interrupt_lost() -> Iterator[None]:
    """A Ctrl-C that hits where Python can raise nothing is raised a moment later.

    Such as a callback of the import system. By default it is a text on the screen, and lost.
    """
    given, main = sys.unraisablehook, threading.main_thread()

    def raise_again(seen: sys.UnraisableHookArgs) -> None:
        if not issubclass(seen.exc_type, KeyboardInterrupt) or main.ident is None:
            given(seen)
            return
        again = threading.Timer(_AGAIN_S, signal.pthread_kill, (main.ident, signal.SIGINT))
        again.daemon = True
        again.start()

    sys.unraisablehook = raise_again
    try:
        yield
    finally:
        sys.unraisablehook = given


@contextmanager
def interrupts_ignored() -> Iterator[None]:
    """A second Ctrl-C must not cut off the writing of the final status."""
    if not _in_main_thread():
        yield
        return
    held = {s: signal.signal(s, signal.SIG_IGN) for s in _SIGNALS}
    try:
        yield
    finally:
        for signum, handler in held.items():
            signal.signal(signum, handler)


@contextmanager
def interrupts_held() -> Iterator[None]:
    """What would raise within the block is raised at its end.

    An exception in the midst of a transaction leaves the connection to a database open, and it
    locked for this process's own next call, which is the one that writes how the run ended.
    """
    if not _in_main_thread():
        yield
        return
    came: list[tuple[int, FrameType | None]] = []

    def note(signum: int, frame: FrameType | None) -> None:
        came.append((signum, frame))

    handlers = _handlers()
    try:
        for s in handlers:
            signal.signal(s, note)
        yield
    finally:
        for s, handler in handlers.items():
            signal.signal(s, handler)
        for signum, frame in came:
            handlers[signal.Signals(signum)](signum, frame)
