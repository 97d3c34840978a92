"""What libraries and their processes print during a call goes to a log."""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TextIO, TypeVar, cast

from ltm_platform.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import BinaryIO

    T = TypeVar("T")

ECHO_GRACE_S = 2.0
_shown: ContextVar[bool] = ContextVar("shown", default=False)
_capturing = threading.Lock()


def shown(listener: Callable[[T], None]) -> Callable[[T], None]:
    """The listener of a caller: its own output goes where it would without the call."""

    def notify(what: T) -> None:
        token = _shown.set(True)
        try:
            listener(what)
        finally:
            _shown.reset(token)

    return notify


@contextmanager
def captured_output(log: Path, echo: Callable[[str], None] | None = None) -> Iterator[None]:
    """Send to ``log`` what is printed in the block: by Python, also where ``sys.stdout`` is a
    notebook's, through file descriptors 1 and 2, and by child processes, which inherit these.

    ``echo`` is called with every line, too, in a thread.

    Raises:
        UserError: another thread captures the output of this process.
    """
    if not _capturing.acquire(blocking=False):
        raise UserError(
            "another call of ltm_platform.api is going on in this process: wait for its end"
        )
    try:
        with ExitStack() as stack:
            file = stack.enter_context(log.open("ab", buffering=0))
            echoing = _Echo(cast("BinaryIO", file), shown(echo)) if echo else None
            if echoing:
                stack.callback(echoing.close)
            target = echoing.descriptor if echoing else file.fileno()
            stack.enter_context(_redirected("stdout", 1, target))
            stack.enter_context(_redirected("stderr", 2, target))
            yield
    finally:
        _capturing.release()


@contextmanager
def _redirected(name: str, descriptor: int, target: int) -> Iterator[None]:
    """Redirect a standard stream, both Python's and the file descriptor, to another file."""
    before: TextIO = getattr(sys, name)
    before.flush()
    with ExitStack() as stack:
        kept = os.dup(descriptor)
        stack.callback(os.close, kept)
        is_descriptor = _descriptor(before) == descriptor
        screen = stack.enter_context(_writing(kept)) if is_descriptor else before
        stream = _Stream(name, descriptor, stack.enter_context(_writing(target)), screen)
        os.dup2(target, descriptor)
        setattr(sys, name, stream)
        handlers = [handler for handler in _log_handlers() if handler.stream is before]
        for handler in handlers:
            handler.setStream(stream)
        try:
            yield
        finally:
            for handler in handlers:
                handler.setStream(before)
            if getattr(sys, name) is stream:
                setattr(sys, name, before)
            before.flush()
            os.dup2(kept, descriptor)


def _writing(descriptor: int) -> TextIO:
    """A line-buffered text stream on a copy of a file descriptor."""
    return os.fdopen(os.dup(descriptor), "w", buffering=1, encoding="utf-8", errors="replace")


def _descriptor(stream: TextIO) -> int | None:
    """The one that a stream writes to; None for a stream without any, such as a notebook's."""
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):
        return None


def _log_handlers() -> Iterator[logging.StreamHandler[Any]]:
    """Handlers of libraries that were imported earlier keep the stream that they found then."""
    for logger in [logging.root, *logging.root.manager.loggerDict.values()]:
        for handler in getattr(logger, "handlers", ()):
            if isinstance(handler, logging.StreamHandler):
                yield handler


class _Stream(io.TextIOBase):
    """A standard stream: to the log, for callers' listeners to the screen.

    What is imported in the block may keep it, as handlers of logging do: after the block it is
    whatever is the standard stream then.
    """

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, name: str, descriptor: int, log: TextIO, screen: TextIO) -> None:
        self._name, self._number = name, descriptor
        self._log, self._screen = log, screen

    def _target(self) -> TextIO:
        if self._log.closed:
            now: TextIO = getattr(sys, self._name)
            return now if now is not self else getattr(sys, f"__{self._name}__")
        return self._screen if _shown.get() else self._log

    def write(self, text: str) -> int:
        return self._target().write(text)

    def flush(self) -> None:
        self._target().flush()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._number

    @property
    def buffer(self) -> BinaryIO:
        return self._target().buffer


class _Echo:
    """The writing end of a pipe whose lines go both to the log and to a listener."""

    def __init__(self, log: BinaryIO, echo: Callable[[str], None]) -> None:
        self._log, self._echo = log, echo
        reading, self.descriptor = os.pipe()
        self._lines = os.fdopen(reading, "rb")
        self._thread = threading.Thread(target=self._copy, name="echo", daemon=True)
        self._thread.start()

    def _copy(self) -> None:
        with self._lines:
            for line in self._lines:
                self._log.write(line)
                with suppress(Exception):  # else a writer would wait for a reader that has gone
                    self._echo(line.decode(errors="replace").rstrip())

    def close(self) -> None:
        """Copy what has been written; does not wait for a child that keeps the pipe open."""
        os.close(self.descriptor)
        self._thread.join(timeout=ECHO_GRACE_S)
