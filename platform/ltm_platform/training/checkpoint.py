"""Checkpoints: everything a run needs to go on, and the plain weights that anyone can load."""

from __future__ import annotations

import random
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ray.train
import torch
from safetensors.torch import save_file

from ltm_platform.training.weights import ShardedEma, gather_weights

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine
    from torch import nn

    from ltm_platform.job import JobSpec

ENGINE_TAG = "engine"
WEIGHTS_FILE = "model.safetensors"
EMA_FILE = "model_ema.safetensors"
JOB_FILE = "job.yaml"
STATE_FILE = "state_rank{rank}.pt"


@dataclass(frozen=True, slots=True)
class Position:
    """How far training has come."""

    epochs_done: int = 0
    steps_done: int = 0


def _random_state() -> dict[str, Any]:
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002 - timm draws from the global generator
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _set_random_state(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])


def save(
    job: JobSpec,
    engine: DeepSpeedEngine,
    ema: ShardedEma | None,
    statistics: nn.Module,
    position: Position,
    metrics: dict[str, float],
) -> None:
    """Report ``metrics`` with a checkpoint of every rank's state. Collective.

    Ray Train merges the ranks' folders, uploads them and keeps the best and the last.
    """
    rank = engine.global_rank
    with tempfile.TemporaryDirectory(prefix="ltm-checkpoint-") as name:
        folder = Path(name)
        engine.save_checkpoint(name, tag=ENGINE_TAG)
        torch.save(
            {
                "position": asdict(position),
                "world_size": engine.world_size,
                "random": _random_state(),
                "statistics": statistics.state_dict(),
                "ema": ema.state_dict() if ema else None,
            },
            folder / STATE_FILE.format(rank=rank),
        )
        weights = gather_weights(engine)
        averaged: dict[str, torch.Tensor] = {}
        if ema:
            with ema.applied():
                averaged = gather_weights(engine)
        if rank == 0:
            save_file(weights, folder / WEIGHTS_FILE)
            if averaged:
                save_file(averaged, folder / EMA_FILE)
            (folder / JOB_FILE).write_text(job.to_yaml())
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(name))


def restore(engine: DeepSpeedEngine, ema: ShardedEma | None, statistics: nn.Module) -> Position:
    """Continue from the run's last checkpoint, if it has one. Collective.

    Raises:
        RuntimeError: the checkpoint was written by another number of workers, or is incomplete.
    """
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return Position()
    with checkpoint.as_directory() as name:
        path = Path(name) / STATE_FILE.format(rank=engine.global_rank)
        if not path.exists():
            raise RuntimeError(
                f"the checkpoint {checkpoint.path} has no state for rank {engine.global_rank}: "
                f"resume on the number of workers that wrote it"
            )
        state = torch.load(path, map_location="cpu", weights_only=False)
        if state["world_size"] != engine.world_size:
            raise RuntimeError(
                f"the checkpoint {checkpoint.path} was written by {state['world_size']} workers, "
                f"but {engine.world_size} are running: resume on {state['world_size']}"
            )
        loaded, _ = engine.load_checkpoint(name, tag=ENGINE_TAG)
        if loaded is None:
            raise RuntimeError(f"the checkpoint {checkpoint.path} holds no DeepSpeed state")
    statistics.load_state_dict(state["statistics"])
    if ema and state["ema"]:
        ema.load_state_dict(state["ema"])
    _set_random_state(state["random"])
    return Position(**state["position"])
