"""What a call changes in the process of its caller, and restores."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Environment:
    """The environment as it was before the first of the calls that run in this process."""

    lock = threading.Lock()
    calls = 0
    before: Mapping[str, str] = {}


@contextmanager
def restored_process() -> Iterator[None]:
    """Environment variables and signal handlers are at the end of the block what they were.

    Ray, DeepSpeed and MLflow read settings from the environment, and pass it on to the processes
    that they start; Ray takes signals over. Also a decorator.
    """
    _enter()
    handlers = _handlers()
    try:
        yield
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
        _leave()


def _enter() -> None:
    with _Environment.lock:
        if _Environment.calls == 0:
            _Environment.before = dict(os.environ)
        _Environment.calls += 1


def _leave() -> None:
    with _Environment.lock:
        _Environment.calls -= 1
        if _Environment.calls:
            return
        for key in os.environ.keys() - _Environment.before.keys():
            del os.environ[key]
        for key, value in _Environment.before.items():
            if os.environ.get(key) != value:
                os.environ[key] = value


def _handlers() -> dict[signal.Signals, signal.Handlers]:
    """Python's signal handlers; none outside of the main thread, which alone may set them."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    found = {signum: signal.getsignal(signum) for signum in _SIGNALS}
    return {signum: handler for signum, handler in found.items() if handler is not None}  # type: ignore[misc]
