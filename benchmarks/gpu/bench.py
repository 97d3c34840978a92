"""How much is measured, on what, and with which clock."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from ltm_platform.job import JobSpec
from ltm_platform.training.components import Components, build_components

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

EMA_DECAY = 0.999
WARMUP = 3
Row = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    networks: dict[str, int]
    """Backbone -> pixels."""
    batch: int
    steps: int
    jpegs: int
    attention: tuple[int, int, int, int]
    """Images, heads, tokens, channels of a head."""
    compiles: bool = True
    """Compiling takes a minute a network, on a CPU several."""


FULL = Size(
    {
        "vit_small_patch16_224": 224,
        "vit_base_patch16_224": 224,
        "swin_tiny_patch4_window7_224": 224,
        "mobilevit_s": 224,
    },
    batch=128,
    steps=20,
    jpegs=1024,
    attention=(128, 6, 158, 64),
)
TINY = Size(
    {"vit_nano_patch4_32": 32}, batch=4, steps=2, jpegs=8, attention=(2, 2, 9, 32), compiles=False
)


def generate(folder: Path, *, train: int, val: int) -> None:
    """An image tree of two classes: soft noise of 500 x 400 pixels, which takes a JPEG decoder as
    long as a photograph does."""
    draw = np.random.default_rng(0)
    for split, images in (("train", train), ("val", val)):
        for number in range(images):
            coarse = draw.integers(256, size=(100, 125, 3), dtype=np.uint8)
            path = folder / split / f"class{number % 2}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(coarse).resize((500, 400), Image.Resampling.BICUBIC).save(path)


@dataclass(frozen=True)
class OnlyRank:
    """This process, as what a worker is told of itself."""

    device: torch.device
    rank: int = 0
    world_size: int = 1
    local_world_size: int = 1


class Bench:
    """What the parts have in common: the device, the images, the time that is left."""

    def __init__(self, size: Size, device: torch.device, data: Path, until: float) -> None:
        self.size, self.device, self.data, self._until = size, device, data, until
        self.classes = len(list((data / "train").iterdir()))
        self.left_out: list[str] = []

    def fits(self, what: str) -> bool:
        """Whether there is time for another thing; else it is noted as left out."""
        there = time.monotonic() < self._until
        if not there:
            self.left_out.append(what)
        return there

    def job(self, network: str, method: str = "none", **engine: Any) -> JobSpec:
        precision = "bf16" if self.device.type == "cuda" else "fp32"
        return JobSpec.from_dict(
            {
                "model": {
                    "backbone": network,
                    "method": method,
                    "image_size": self.size.networks[network],
                },
                "data": {"path": str(self.data), "loader_workers": 0},
                "recipe": {
                    "epochs": 1000,
                    "global_batch": self.size.batch,
                    "ema_decay": EMA_DECAY,
                    "label_smoothing": 0.1,
                    "ib": {"warmup": 0.0},
                },
                "engine": {"zero_stage": 0, "precision": precision} | engine,
            }
        )

    def components(self, job: JobSpec) -> Components:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        context: Any = OnlyRank(self.device)
        return build_components(job, context, cache=self.data, send=lambda _: None)

    def end(self, its: Components) -> None:
        its.train_loader.close()
        its.val_loader.close()
        torch.compiler.reset()

    def speed(self, steps: Iterable[None]) -> float:
        """Images/s after the first steps."""
        start = 0.0
        for done, _ in enumerate(steps, start=1):
            if done == WARMUP:
                self.wait()
                start = time.perf_counter()
        self.wait()
        return (done - WARMUP) * self.size.batch / (time.perf_counter() - start)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, do: Callable[[], object]) -> float:
        """Median of several."""
        times = []
        for _ in range(WARMUP + self.size.steps):
            self.wait()
            start = time.perf_counter()
            do()
            self.wait()
            times.append(time.perf_counter() - start)
        return statistics.median(times[WARMUP:])
