"""A training run that is small enough for a test: its data, its job, its folder, its rank."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ltm_platform.data.sources.digits import Digits
from ltm_platform.data.sources.shards import Record, Shards, write_shards
from ltm_platform.events import EpochEnded, Event, Progress
from ltm_platform.job import JobSpec
from ltm_platform.storage import locations
from ltm_platform.storage.manifest import EMA_FILE, WEIGHTS_FILE
from ltm_platform.storage.path import storage_path
from ltm_platform.storage.run_folder import RunIdentity
from ltm_platform.training.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

    from ltm_platform.training.checkpoint import Snapshot

MODEL: dict[str, Any] = {
    "backbone": "vit_nano_patch4_32",
    "compression_ratio": 0.7,
    "image_size": 32,
}
RUN = RunIdentity("small", "f00d")
CLASSES = 10
TRAIN_IMAGES = 48
VAL_IMAGES = 21


def small_digits() -> str:
    """A folder of shards with the first digits of both parts; written once a home."""
    folder = locations.cache() / "small-digits"
    for split, source, count in zip(
        ("train", "val"),
        Digits("digits", locations.cache()).open(),
        (TRAIN_IMAGES, VAL_IMAGES),
        strict=True,
    ):
        if not (folder / split).is_dir():
            images = enumerate(source.read(range(count)))
            records = (Record(data, label, f"{split}/{index}") for index, (data, label) in images)
            write_shards(folder, split, records, source.classes)
    return str(folder)


BAD = {"train": (3, 17, 18), "val": (5,)}
"""Images of `damaged_digits` that cannot be decoded."""


def damaged_digits() -> str:
    """As `small_digits`, but that some images are cut short."""
    folder = locations.cache() / "damaged-digits"
    for split, images in zip(
        ("train", "val"), Shards(small_digits(), folder).open(val_fraction=0.5), strict=True
    ):
        if not (folder / split).is_dir():
            read = images.read(range(len(images)))
            records = [
                Record(data[:-30] if index in BAD[split] else data, label, f"{split}/{index}")
                for index, (data, label) in enumerate(read)
            ]
            write_shards(folder, split, records, images.classes)
    return str(folder)


def small_job(values: Mapping[str, Any] | None = None, **changes: Any) -> JobSpec:
    """A job of the small digits; ``changes`` are dotted keys with ``__`` for the dot."""
    data = {"path": small_digits(), "loader_workers": 0}
    job = JobSpec.from_dict({**(values or {}), "data": data})
    for key, value in changes.items():
        job = job.replace(key.replace("__", "."), value)
    return job


@dataclass(frozen=True)
class Kept:
    """A checkpoint that training stored."""

    taken: Snapshot
    folder: Path
    metrics: dict[str, float]

    @property
    def weights(self) -> dict[str, Tensor]:
        """The whole network's on rank 0, none elsewhere."""
        return self.taken.tensors.get(WEIGHTS_FILE, {})

    @property
    def average(self) -> dict[str, Tensor]:
        return self.taken.tensors.get(EMA_FILE, {})


class FolderContext:
    """A `WorkerContext` of ranks that share a folder, and the announcements that a test makes.

    start: the checkpoint to go on from.
    """

    device = torch.device("cpu")

    def __init__(
        self, folder: Path, rank: int = 0, world_size: int = 1, *, start: Path | None = None
    ) -> None:
        self.rank, self.world_size, self.local_world_size = rank, world_size, world_size
        self.stop_requested = self.preempted = False
        self.kept: list[Kept] = []
        self._folder, self._start = folder, start

    @contextmanager
    def last_checkpoint(self) -> Iterator[Path | None]:
        yield self._start

    def keep(self, taken: Snapshot, metrics: dict[str, float]) -> None:
        folder = self._folder / f"{len(self.kept):03d}-step-{taken.steps_done}"
        taken.write(storage_path(folder), RUN, metrics)
        self.kept.append(Kept(taken, folder, metrics))

    def is_preempted(self) -> bool:
        return self.preempted

    def stop_is_requested(self) -> bool:
        return self.stop_requested

    @property
    def kept_steps(self) -> list[int]:
        return [kept.taken.steps_done for kept in self.kept]


class SmallRun:
    """The real `Trainer` of one rank, and what it sent."""

    def __init__(self, job: JobSpec, context: FolderContext) -> None:
        self.context = context
        self.events: list[Event] = []
        self.trainer = Trainer(job, context, cache=str(locations.cache()), send=self.events.append)
        self.components = self.trainer.components

    @property
    def model(self) -> Any:
        return self.components.engine.module.model

    def train(self) -> list[EpochEnded]:
        """From the context's checkpoint, or the start, to the end."""
        self.trainer.restore()
        return list(self.trainer.epochs())

    @property
    def steps(self) -> dict[int, dict[str, float]]:
        """Metrics by optimizer step, as sent, of those of a checkpoint's history too."""
        told = [event for event in self.events if type(event) is Progress]
        return {one.step: one.metrics for one in told if "train/loss" in one.metrics}

    @property
    def losses(self) -> list[list[float]]:
        """After every step the parts of its loss, averaged over the global batch."""
        parts = self.components.objective.parts
        return [[metrics[part] for part in parts] for _, metrics in sorted(self.steps.items())]

    def close(self) -> None:
        self.trainer.close()
        engine: Any = self.components.engine
        if engine.zero_optimization_stage():
            engine.destroy()


def after_each(owner: Any, method: str, note: Callable[[], object]) -> None:
    """Call ``note`` whenever the owner's method, which does what it does, has returned."""
    real = getattr(owner, method)

    def noted(*args: Any, **named: Any) -> Any:
        result = real(*args, **named)
        note()
        return result

    setattr(owner, method, noted)
