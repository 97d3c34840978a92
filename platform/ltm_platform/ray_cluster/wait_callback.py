"""Reports that a run waits for resources in use: its state is WAITING until its workers start."""

from __future__ import annotations

import ray

from ltm_platform.compat.ray_train import PlacementCallback
from ltm_platform.events import EventQueue, Waiting


class WaitCallback(PlacementCallback):
    """Checks, in Ray Train's controller, when workers are requested and when they did not start."""

    def __init__(self, events: EventQueue, workers: int, per_worker: dict[str, float]) -> None:
        self._events = events
        self._needed = {name: workers * count for name, count in per_worker.items() if count}
        self._reported: str | None = None

    def on_workers_wanted(self) -> None:
        missing = missing_resources(self._needed, ray.available_resources())
        if missing and missing != self._reported:
            self._events.put_nowait([Waiting(missing)])
        self._reported = missing


def missing_resources(needed: dict[str, float], free: dict[str, float]) -> str | None:
    """The first resource of which more is needed than is free, with both counts."""
    for name, count in needed.items():
        there = free.get(name, 0.0)
        if count > there:
            return f"{count:g} {name}s: {there:g} are free now"
    return None
