"""Work spread over processes that end with the one that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

A = TypeVar("A")
B = TypeVar("B")


def spread(work: Callable[[A], B], items: Iterable[A], processes: int) -> Generator[B, None, None]:
    """``work`` of every item as it gets done, in ``processes`` processes, or here if fewer than 2.

    The first exception ends it; what is being worked on by then is finished first.
    """
    if processes < 2:
        yield from map(work, items)
        return
    # Not forked: pyarrow and its stores have threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=_live_with_parent) as pool:
        left = iter(items)
        # Items are large, so only the next few are in flight.
        running = {pool.submit(work, item) for item in islice(left, 2 * processes)}
        try:
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                running |= {pool.submit(work, item) for item in islice(left, len(done))}
                for future in done:
                    yield future.result()
        finally:
            for future in running:
                future.cancel()


def _live_with_parent() -> None:
    """Leave Ctrl-C to the parent, and end when it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
