"""CPU, memory, disk, network and GPU use of the driver's node, as ``system/...`` metrics."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ltm_platform.compat.mlflow import system_monitors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

INTERVAL_S = 10.0
TRIAL_INTERVAL_S = 30.0
"""Of trials, several of which share a node and all of which would record the same."""
PREFIX = "system/"


@contextmanager
def sampling(
    record: Callable[[dict[str, float], int, int], None], first_step: int, interval_s: float
) -> Iterator[None]:
    """Call ``record(metrics, step, time_ms)`` every so many seconds while the block runs."""
    monitors = system_monitors()
    ended = threading.Event()

    def sample() -> None:
        step = first_step
        while not ended.wait(interval_s):
            values: dict[str, float] = {}
            for monitor in monitors:
                monitor.collect_metrics()
                values |= monitor.aggregate_metrics()
                monitor.clear_metrics()
            named = {PREFIX + key: value for key, value in values.items()}
            record(named, step, int(time.time() * 1000))
            step += 1

    thread = threading.Thread(target=sample, name="system-metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
