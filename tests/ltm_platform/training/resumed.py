"""Ranks store checkpoints, and others go on from them, for the tests of checkpoints."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from deepspeed.accelerator import get_accelerator

from ltm_platform.events import Started
from ltm_platform.storage.manifest import check

from .scenarios import RECIPE
from .small_run import MODEL, FolderContext, SmallRun, small_job

if TYPE_CHECKING:
    from ltm_platform.job import JobSpec

RATES = {"sgd": 0.05, "adamw": 1e-3, "nadamw": 1e-3}
# its scores and gates change before and after the checkpoint
OPTIONS = {"s2vite": {"update_every": 2, "share": 0.5}}
EPOCH = 3
"""Steps."""


@dataclass(frozen=True)
class Case:
    """What is trained. ``offload`` is of two ranks alone: four go on without."""

    method: str
    optimizer: str
    stage: int
    offload: str = "none"
    precision: str = "fp32"

    def __str__(self) -> str:
        return ", ".join(str(value) for value in vars(self).values())

    def job(self) -> JobSpec:
        # DeepSpeed asks the CPU for matrix units that work in fp16; torch can do without.
        get_accelerator().is_fp16_supported = lambda: True
        values = {
            "model": MODEL | {"method": self.method, "options": OPTIONS.get(self.method, {})},
            "recipe": RECIPE | {"optimizer": self.optimizer, "lr": RATES[self.optimizer]},
            "engine": {
                "zero_stage": self.stage,
                "offload": self.offload if dist.get_world_size() == 2 else "none",
                "precision": self.precision,
            },
        }
        return small_job(values)


CASES = (
    Case("ltm", "sgd", 0),
    Case("s2vite", "adamw", 1),
    Case("dtem", "adamw", 3),
    Case("ltm", "adamw", 2, "optimizer"),
    Case("ltm", "adamw", 3, "all"),
    # weights in half precision beside fp32 masters
    Case("ltm", "nadamw", 2, precision="fp16"),
)


def train(case: Case, folder: str, start: str | None = None) -> dict[str, Any]:
    """Two epochs, or what is left of them after the checkpoint ``start``.

    Returns the folder of the checkpoint after the first epoch, the second epoch's losses, and the
    files of the last checkpoint, which rank 0 alone has.
    """
    rank, workers = dist.get_rank(), dist.get_world_size()
    checkpoint = Path(start) if start else None
    context = FolderContext(Path(folder), rank, workers, start=checkpoint)
    with closing(SmallRun(case.job(), context)) as run:
        if case.precision == "fp16" and not checkpoint:
            # Low enough for every number of ranks: one that skips a step trains something else.
            run.components.engine.optimizer.loss_scaler.cur_scale = 2.0**8
        run.train()
        if checkpoint:
            check(checkpoint)
            started = run.events[0]
            assert isinstance(started, Started)
            assert (started.epochs_done, started.steps_done) == (1, EPOCH)
        return {
            "checkpoint": str(context.kept[0].folder),
            "losses": run.losses[EPOCH:],
            "files": context.kept[-1].taken.tensors,
        }
