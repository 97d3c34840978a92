"""Checkpoints: everything a run needs to go on, and the plain weights that anyone can load.

All is stored whole, by parameter: a run goes on with any number of workers.
"""

from __future__ import annotations

import json
import random
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save_file

from ltm_platform.compat.deepspeed_engine import set_progress
from ltm_platform.storage.manifest import (
    CONFUSION_FILE,
    EMA_FILE,
    FILE_METADATA,
    JOB_FILE,
    PROGRESS_FILE,
    WEIGHTS_FILE,
    Origin,
    check,
    fingerprints,
    manifest_name,
    sealed,
)
from ltm_platform.storage.tensors import load_tensors
from ltm_platform.temporary import temporary_folder
from ltm_platform.training.engine.optimizer_state import (
    Scalars,
    gather_optimizer_state,
    load_optimizer_state,
)
from ltm_platform.training.engine.weights import ShardedEma, gather_weights, load_weights
from ltm_platform.training.recipe.early_stop import EarlyStop

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from ltm_platform.job import JobSpec
    from ltm_platform.storage.path import StoragePath
    from ltm_platform.storage.run_folder import RunIdentity
    from ltm_platform.training.engine.interface import Engine

OPTIMIZER_FILE = "optimizer.safetensors"
STATISTICS_FILE = "ib_statistics.safetensors"
RANDOM_FILE = "random_rank{rank}.pt"


@dataclass(frozen=True, slots=True)
class State:
    """What a rank's training is made of."""

    engine: Engine
    ema: ShardedEma | None
    statistics: nn.Module
    """The streaming statistics of the information bottleneck, the same on all ranks."""
    early_stop: EarlyStop = field(default_factory=lambda: EarlyStop(None))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A rank's part of a checkpoint in the memory of the CPU; rank 0 has all but the chance."""

    rank: int
    world_size: int
    steps_done: int
    tensors: dict[str, dict[str, Tensor]]
    """By file name."""
    texts: dict[str, str]
    random: dict[str, Any]

    @property
    def size(self) -> int:
        """Bytes of its tensors, which are nearly all of it."""
        files = self.tensors.values()
        return sum(tensor.nbytes for tensors in files for tensor in tensors.values())

    def write(self, target: StoragePath, run: RunIdentity, metrics: Mapping[str, float]) -> None:
        """Into the folder ``target`` of the run, which the ranks share, here or in an object store.

        The manifest comes last: a folder in which it is there is complete.
        """
        with ExitStack() as stack:
            if target.is_local:
                folder = Path(target.path)
                folder.mkdir(parents=True, exist_ok=True)
            else:
                folder = stack.enter_context(temporary_folder("ltm-checkpoint-"))
            files = fingerprints(folder, self._write_files(folder))
            if not target.is_local:
                target.put(folder)
        manifest = sealed(
            Origin(run.name, run.run_id, target.name),
            files,
            rank=self.rank,
            world_size=self.world_size,
            steps_done=self.steps_done,
            metrics=metrics if self.rank == 0 else {},
        )
        (target / manifest_name(self.rank)).write(manifest)

    def _write_files(self, folder: Path) -> list[str]:
        """Returns their names."""
        names = [RANDOM_FILE.format(rank=self.rank), *self.tensors, *self.texts]
        torch.save(self.random, folder / names[0])
        for name, tensors in self.tensors.items():
            save_file(tensors, folder / name, FILE_METADATA)
        for name, text in self.texts.items():
            (folder / name).write_text(text)
        return names


def snapshot(
    job: JobSpec, state: State, steps_done: int, history: str, confusion: Tensor | None = None
) -> Snapshot:
    """Copy the state of training. Collective.

    ``history`` is what `StepMeter.history` gives, ``confusion`` what `evaluate` filled in.
    """
    engine, ema = state.engine, state.ema
    tensors: dict[str, dict[str, Tensor]] = {WEIGHTS_FILE: gather_weights(engine)}
    if ema:
        with ema.applied():
            tensors[EMA_FILE] = gather_weights(engine)
    tensors[OPTIMIZER_FILE], scalars = gather_optimizer_state(engine)
    tensors[STATISTICS_FILE] = {
        name: buffer.cpu().clone() for name, buffer in state.statistics.state_dict().items()
    }
    if confusion is not None:
        tensors[CONFUSION_FILE] = {"counts": confusion.int().cpu()}
    progress = {
        "optimizer": scalars,
        "history": history,
        "early_stop": state.early_stop.state_dict(),
        "skipped_steps": engine.skipped_steps,
    }
    texts = {PROGRESS_FILE: json.dumps(progress), JOB_FILE: job.to_yaml()}
    first = engine.global_rank == 0
    return Snapshot(
        rank=engine.global_rank,
        world_size=engine.world_size,
        steps_done=steps_done,
        tensors=tensors if first else {},
        texts=texts if first else {},
        random=_random_state(),
    )


def restore(folder: Path, state: State) -> tuple[int, str]:
    """Continue from the checkpoint in ``folder``. Collective.

    On another number of ranks all goes on as it was but the chance of dropout and drop path.

    Returns:
        Optimizer steps done, and the history of `snapshot`.

    Raises:
        UserError: it is damaged.
    """
    engine, manifest = state.engine, check(folder)
    progress = json.loads((folder / PROGRESS_FILE).read_text())
    scalars: Scalars = progress["optimizer"]
    weights = load_tensors(folder / WEIGHTS_FILE)
    if state.ema:
        state.ema.load_weights(load_tensors(folder / EMA_FILE))
    load_weights(engine, weights)
    load_optimizer_state(engine, weights, load_tensors(folder / OPTIMIZER_FILE), scalars)
    set_progress(engine, steps=manifest.steps_done, skipped=progress["skipped_steps"])
    state.early_stop.load_state_dict(progress["early_stop"])
    state.statistics.load_state_dict(load_tensors(folder / STATISTICS_FILE))
    if manifest.world_size == engine.world_size:
        path = folder / RANDOM_FILE.format(rank=engine.global_rank)
        _set_random_state(torch.load(path, weights_only=True))
    return manifest.steps_done, progress["history"]


def _random_state() -> dict[str, Any]:
    """The global generators, in types that load without unpickling objects."""
    name, key, *rest = np.random.get_state()  # noqa: NPY002 - timm draws from the global generator
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(key, dtype=np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _set_random_state(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    name, key, *rest = state["numpy"]
    np.random.set_state((name, key.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
