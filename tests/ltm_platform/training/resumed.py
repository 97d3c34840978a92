"""Two ranks train and store checkpoints; two others and then four go on from them.

python resumed.py FOLDER
"""

from __future__ import annotations

import os
import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from deepspeed import DeepSpeedEngine

sys.path.insert(0, str(Path(__file__).parent))
from groups import run
from ranks import EMA_DECAY, JOB, MODEL, Plain

from ltm_platform.checkpoints import check
from ltm_platform.job import JobSpec
from ltm_platform.training import checkpoint, method_hooks
from ltm_platform.training.engine import build_engine, deepspeed_config
from ltm_platform.training.weights import ShardedEma, average_buffers, gather_weights

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

RATES = {"sgd": 0.05, "adamw": 1e-3, "nadamw": 1e-3}
# method, optimizer, ZeRO stage, what two ranks offload, which four do not, and whether the weights
# are in half precision beside fp32 masters
CASES = (
    ("ltm", "sgd", 0, "none", False),
    ("s2vite", "adamw", 1, "none", False),
    ("dtem", "adamw", 3, "none", False),
    ("ltm", "adamw", 2, "optimizer", False),
    ("ltm", "adamw", 3, "all", False),
    ("ltm", "nadamw", 2, "none", True),
)
# its scores and gates change before and after the checkpoint
OPTIONS = {"s2vite": {"update_every": 2, "share": 0.5}}


def name_of(method: str, optimizer: str, stage: int, offload: str, half: bool) -> str:
    without = f"{method}, {optimizer}, ZeRO {stage}" + (", half" if half else "")
    return without if offload == "none" else f"{without}, offload {offload}"


class Run(Plain):
    """A rank's training that checkpoints can be taken of."""

    def __init__(self, job: JobSpec, rank: int, workers: int, *, half: bool) -> None:
        super().__init__(job, rank, workers)
        config = deepspeed_config(job, self.batch)
        if half:
            config["bf16"] = {"enabled": True}
        self.engine = build_engine(self.model, self.optimizer, config, device=torch.device("cpu"))
        kind = torch.bfloat16 if half else torch.float32
        self.forward = lambda images: self.engine(images.to(kind))
        self.ema = ShardedEma(self.engine, EMA_DECAY)
        self.state = checkpoint.State(self.engine, self.ema, self.bottleneck)
        method_hooks.before_training(self.engine)

    def epoch(self, epoch: int) -> Iterator[list[float]]:
        steps = self.train_loader.steps(self.job.recipe.epochs)
        before = self.train_loader.steps(epoch)
        for step, parts in enumerate(super().epoch(epoch), start=before + 1):
            method_hooks.after_step(self.engine, step, steps)
            yield parts

    def backward(self, loss: Tensor, *, last: bool) -> None:
        self.engine.backward(loss)
        self.engine.step()
        if last:
            self.ema.update()

    def rest(self) -> dict[str, Any]:
        """The last epoch's losses, and the weights at its end."""
        losses = list(self.epoch(1))
        with self.ema.applied():
            average = gather_weights(self.engine)
        return {"losses": losses, "weights": gather_weights(self.engine), "average": average}

    def close(self) -> None:
        super().close()
        if isinstance(self.engine, DeepSpeedEngine):
            self.engine.destroy()


def see(task: str, folder: Path, rank: int, workers: int) -> None:
    os.chdir(folder)
    seen = {}
    for method, optimizer, stage, offload, half in CASES:
        name = name_of(method, optimizer, stage, offload, half)
        model = MODEL | {"method": method, "options": OPTIONS.get(method, {})}
        recipe = JOB["recipe"] | {"optimizer": optimizer, "lr": RATES[optimizer]}
        engine = {"zero_stage": stage, "offload": offload if workers == 2 else "none"}
        job = JobSpec.from_dict(JOB | {"model": model, "recipe": recipe, "engine": engine})
        stored = folder / name
        with closing(Run(job, rank, workers, half=half)) as run:
            if task == "write":
                stored.mkdir(exist_ok=True)
                steps = len(list(run.epoch(0)))
                average_buffers(run.engine, run.ema)
                checkpoint.snapshot(job, run.state, steps, "[]").write(stored)
            else:
                check(stored)
                assert checkpoint.restore(stored, run.state) == (3, "[]")
            seen[name] = run.rest()
    if rank == 0:
        torch.save(seen, folder / f"{task}-{workers}.pt")


if __name__ == "__main__":
    target = Path(sys.argv[1])
    run(partial(see, "write", target), target / "write", 2)
    run(partial(see, "go-on", target), target / "go-on", 2, 4)
