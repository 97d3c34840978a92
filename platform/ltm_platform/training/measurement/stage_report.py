"""Tells which stage of a step holds the run back, as metrics and in a sentence."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import astuple
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from ltm_platform.data.processes import cores
from ltm_platform.events import Decided, Listener, Progress
from ltm_platform.storage.path import is_address
from ltm_platform.training.measurement.stage_times import (
    StageTimes,
    held_back_by,
    sentence,
    slowest,
)

if TYPE_CHECKING:
    from ltm_platform.job import Data
    from ltm_platform.training.measurement.stage_times import StageClock

INTERVAL_S = 60.0
"""Between two looks within an epoch."""


class StageReport:
    """Looks at a clock at the end of every epoch, and once a minute within a long one.

    images: of a rank in a step.
    loader_workers: decode processes of this rank.
    ranks_here: how many ranks share the cores of this machine.
    """

    def __init__(
        self,
        data: Data,
        clock: StageClock,
        send: Listener,
        *,
        images: int,
        loader_workers: int,
        ranks_here: int,
        device: torch.device,
    ) -> None:
        self._data, self._clock, self._send, self._device = data, clock, send, device
        self._images = images
        self._cores = max(1, cores() // ranks_here)
        self._processes = loader_workers
        self._told: str | None = None
        self._looked = time.monotonic()

    def within_epoch(self, step: int, epoch: int) -> None:
        """After a step: what this rank has measured, if it is time."""
        if time.monotonic() - self._looked < INTERVAL_S:
            return
        self._looked = time.monotonic()
        times = self._clock.times()
        if times.total:
            self._tell(times)
            self._send(Progress(step, epoch, times.metrics()))

    def epoch_ended(self) -> dict[str, float]:
        """The metrics of an epoch: those of the rank that the others wait for. Collective."""
        self._looked = time.monotonic()
        measured = (*astuple(self._clock.times(reset=True)), peak_memory(self._device))
        own = torch.tensor(measured, dtype=torch.float64, device=self._device)
        ranks = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(ranks, own)
        rows = torch.stack(ranks).tolist()
        metrics = {"memory/peak_gib": max(row[-1] for row in rows) / 1024**3}
        times = slowest([StageTimes(*row[:-1]) for row in rows])
        if not times.total:
            return metrics
        self._tell(times)
        images = times.steps * self._images
        return metrics | {
            **times.metrics(),
            "time/step_s": times.total / times.steps,
            "time/read_ms": 1000 * times.reading_s / images,
            "time/decode_ms": 1000 * times.decoding_s / images,
            "time/decode_processes": self._processes,
        }

    def _tell(self, times: StageTimes) -> None:
        """In a sentence, where it is another stage than before."""
        stage = held_back_by(times, self._processes)
        if stage == self._told:
            return
        self._told = stage
        said = sentence(
            times,
            loader_workers=self._processes,
            cores=self._cores,
            cached=bool(self._data.cache) or not is_address(self._data.path),
        )
        self._send(Decided("held_back_by", stage, said))


def peak_memory(device: torch.device) -> int:
    """Bytes that this process has needed at most: of the GPU, or else of the machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # its unit
