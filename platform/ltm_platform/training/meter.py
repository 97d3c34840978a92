"""Step metrics without making the device wait for them."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from ltm_platform.events import SEND_INTERVAL_S, Listener, Progress
from ltm_platform.training.recipe import Objective


class StepMeter:
    """Keeps the losses of past steps on the device and sends them together, on rank 0.

    Reading a loss stops an asynchronous device until it has caught up, so it is done a few times a
    second at most, for all steps since the last time.
    """

    def __init__(self, send: Listener, global_batch: int) -> None:
        self._send = send
        self._global_batch = global_batch
        self._steps: list[tuple[int, int, float, Tensor]] = []
        self._window_start = time.perf_counter()

    def step(self, step: int, epoch: int, lr: float, parts: Tensor) -> None:
        """``parts`` [3] in ``Objective.PARTS`` order, averaged over the global batch."""
        self._steps.append((step, epoch, lr, parts))
        elapsed = time.perf_counter() - self._window_start
        if elapsed >= SEND_INTERVAL_S:
            self._flush({"train/images_per_s": len(self._steps) * self._global_batch / elapsed})

    def end_epoch(self) -> None:
        """Send what is left; the epoch's own summary carries its throughput."""
        self._flush({})

    def restart_clock(self) -> None:
        """Training goes on after something else (validation, a checkpoint) took time."""
        self._window_start = time.perf_counter()

    def _flush(self, rate: dict[str, float]) -> None:
        if self._steps:
            values = torch.stack([parts for *_, parts in self._steps]).tolist()
            for (step, epoch, lr, _), row in zip(self._steps, values, strict=True):
                metrics = dict(zip(Objective.PARTS, row, strict=True))
                self._send(Progress(step, epoch, metrics | {"train/lr": lr}))
            last_step, last_epoch, *_ = self._steps[-1]
            if rate:
                self._send(Progress(last_step, last_epoch, rate))
        self._steps = []
        self.restart_clock()
