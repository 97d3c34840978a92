"""Reports that a run waits for resources in use: its state is WAITING until its workers start."""

from __future__ import annotations

import ray

from ltm_platform.compat.ray_train import PlacementCallback
from ltm_platform.events import EventQueue, Waiting


class WaitCallback(PlacementCallback):
    """Checks, in Ray Train's controller, when workers are requested and when they did not start."""

    def __init__(
        self,
        events: EventQueue,
        workers: int,
        per_worker: dict[str, float],
        accelerator: str | None = None,
    ) -> None:
        self._events = events
        self._accelerator = accelerator
        self._needed = {name: workers * count for name, count in per_worker.items() if count}
        self._reported: str | None = None

    def on_workers_wanted(self) -> None:
        free = ray.available_resources()
        missing = missing_resources(self._needed, free) or missing_type(self._accelerator, free)
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


def missing_type(accelerator: str | None, free: dict[str, float]) -> str | None:
    """The type of GPU that is wanted, unless a node has it."""
    if accelerator is None or f"accelerator_type:{accelerator}" in free:
        return None
    return f"a node with GPUs of the type {accelerator}: none is there now"
