"""Images a second that the loader gives and that the network takes, tried for a few seconds."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ltm_platform.data.decode import Decoder, Failure, pixel_rule
from ltm_platform.data.order import Batch
from ltm_platform.data.pixels import train_pipeline
from ltm_platform.data.processes import loader_processes
from ltm_platform.data.transforms import Augmentation
from ltm_platform.training.measurement.micro_batch import training_step

if TYPE_CHECKING:
    from collections.abc import Callable

    from ltm_platform.data import Dataset
    from ltm_platform.job import JobSpec
    from ltm_platform.models import Pixels

SECONDS = 1.5
"""Of each of the two measurements, after a first batch."""
_BATCH, _MOST_ON_CPU = 8, 4


@dataclass(frozen=True, slots=True)
class Throughput:
    """Of one worker, in images a second.

    process: of one decode process.
    processes: how many the worker has; 0 decodes in the training process.
    network: a whole step; None where the job trains on GPUs and this machine has none.
    """

    process: float
    processes: int
    network: float | None

    @property
    def loader(self) -> float:
        return self.process * max(1, self.processes)

    def verdict(self) -> str | None:
        """Which of the two will wait, and what would help."""
        if self.network is None:
            return None
        if not self.processes:
            share = self.network / (self.network + self.process)
            return f"data.loader_workers is 0: {share:.0%} of a step is decoding"
        if self.loader >= self.network:
            return "the loader will wait for the network"
        share = 1 - self.loader / self.network
        return (
            f"the network will wait for images, {share:.0%} of the time: "
            f"data.loader_workers={math.ceil(self.network / self.process)} would do"
        )


def measure(
    job: JobSpec,
    dataset: Dataset,
    pixels: Pixels,
    *,
    micro_batch: int,
    workers_here: int,
    use_gpu: bool,
) -> Throughput:
    """Try both on this machine, one after the other.

    pixels: of the job's network.
    workers_here: of a node, among which its cores are divided.

    Raises:
        UserError: an image cannot be read.
    """
    processes = loader_processes(job.data.loader_workers, workers_here, use_gpu=use_gpu)
    return Throughput(
        process=_loader_rate(job, dataset, pixels),
        processes=processes,
        network=_network_rate(job, len(dataset.classes), micro_batch, use_gpu=use_gpu),
    )


def _loader_rate(job: JobSpec, dataset: Dataset, pixels: Pixels) -> float:
    augment = Augmentation(**job.recipe.augment.model_dump())
    decoder = Decoder(
        dataset.train,
        train_pipeline(augment, pixels.size, pixels.mean, job.data.decode),
        job.recipe.seed,
        pixel_rule(job.data),
    )
    draw, images = np.random.default_rng(job.recipe.seed), len(dataset.train)

    def decode() -> int:
        # From all over the data set: neighbours may be of one kind.
        chosen = Batch(draw.integers(0, images, _BATCH), np.zeros(_BATCH, dtype=np.int64))
        decoded = decoder[chosen]
        if isinstance(decoded, Failure):
            raise decoded.error
        return _BATCH

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a decode process has
    try:
        return _rate(decode)
    finally:
        torch.set_num_threads(threads)


def _network_rate(
    job: JobSpec, num_classes: int, micro_batch: int, *, use_gpu: bool
) -> float | None:
    if use_gpu and not torch.cuda.is_available():
        return None
    device = torch.device("cuda" if use_gpu else "cpu")
    step = training_step(job, num_classes, device)
    size = micro_batch if use_gpu else min(micro_batch, _MOST_ON_CPU)

    def train() -> int:
        step(size)
        if use_gpu:
            torch.cuda.synchronize()
        return size

    return _rate(train)


def _rate(work: Callable[[], int]) -> float:
    """Units of ``work`` a second; the first does not count, unless it takes longer than all."""
    start = time.perf_counter()
    done = work()
    seconds = time.perf_counter() - start
    if seconds < SECONDS:
        done, seconds, start = 0, 0.0, time.perf_counter()
    while seconds < SECONDS:
        done += work()
        seconds = time.perf_counter() - start
    return done / seconds
