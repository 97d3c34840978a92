"""CPU, memory, disk, network and GPU use of the driver's node, as ``system/...`` metrics."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

INTERVAL_S = 10.0
TRIAL_INTERVAL_S = 30.0
"""Of trials, several of which share a node and all of which would tell the same."""
PREFIX = "system/"


@contextmanager
def sampling(
    record: Callable[[dict[str, float], int, int], None], first_step: int, interval_s: float
) -> Iterator[None]:
    """Call ``record(metrics, step, time_ms)`` every so many seconds while the block runs.

    MLflow's own monitors, without the thread around them: that one ends for good when the store
    is away, and asks for the whole run at every sample.
    """
    monitors = _monitors()
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


def _monitors() -> list[Any]:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
    from mlflow.system_metrics.metrics.rocm_monitor import ROCMMonitor

    monitors = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    for kind in (GPUMonitor, ROCMMonitor):
        try:
            monitors.append(kind())
        except Exception:  # whatever a driver that is not there makes its library raise
            continue
        break
    return monitors
