"""A trained network, as its checkpoint holds it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open

import ltm
from ltm.checkpoints import classifiers
from ltm_platform.data.sources import find_source, reach_store
from ltm_platform.errors import UserError
from ltm_platform.interrupts import interrupts_held
from ltm_platform.models import Pixels, create_model, input_pixels, load_weights
from ltm_platform.storage import locations
from ltm_platform.storage.manifest import CLASSES_FILE, EMA_FILE, WEIGHTS_FILE, job_of

if TYPE_CHECKING:
    from pathlib import Path

    from ltm_platform.job import JobSpec


@dataclass(frozen=True, slots=True)
class StoredNetwork:
    """A network with its weights, in evaluation mode."""

    model: Any
    """A timm model: normalised [B, 3, H, W] float -> logits [B, classes]."""
    job: JobSpec
    checkpoint: Path
    weights: str
    """The file in the checkpoint's folder."""
    pixels: Pixels
    classes: tuple[str, ...]
    """By their labels; numbers where the data set is not at hand."""


def load_network(
    checkpoint: Path, *, ema: bool = False, ratio: float | None = None
) -> StoredNetwork:
    """Build the network of a checkpoint's folder with its weights, or their moving average.

    ratio: a compression ratio in (0, 1]; None is the network's own plan.

    Raises:
        UserError: the weights or the ratio do not fit, or there is no moving average.
    """
    file = checkpoint / (EMA_FILE if ema else WEIGHTS_FILE)
    shown = locations.shown(checkpoint)
    if not file.is_file():
        raise UserError(f"{shown} holds no moving average: its job has no recipe.ema_decay")
    job = job_of(checkpoint)
    if ratio is not None and job.model.method == "none":
        raise UserError(f"{shown} is a network without merging: it has one ratio, 1")
    try:
        classes = _count_classes(job, file)
        model = create_model(job, classes)
        load_weights(model, file)
        if ratio is not None:
            model.set_compression(ratio)
        model = ltm.compacted(model)
    except ValueError as error:
        raise UserError(f"{shown}: {error}") from None
    return StoredNetwork(
        model.eval(),
        job,
        checkpoint,
        file.name,
        input_pixels(model),
        _names(checkpoint, job, classes),
    )


def _count_classes(job: JobSpec, file: Path) -> int:
    """The number of outputs of the classifier whose weights lie in ``file``.

    Raises:
        ValueError: it holds no weights of the job's network.
    """
    with torch.device("meta"):
        model = create_model(job, 2, method="none")
    name = next(iter(classifiers(model)))
    try:
        with interrupts_held(), safe_open(str(file), framework="pt") as weights:
            return int(weights.get_slice(f"{name}.weight").get_shape()[0])
    except Exception as error:  # whatever safetensors makes of a foreign file
        raise ValueError(f"{file.name} cannot be read as weights: {error}") from None


def _names(checkpoint: Path, job: JobSpec, count: int) -> tuple[str, ...]:
    if (checkpoint / CLASSES_FILE).is_file():
        return tuple(json.loads((checkpoint / CLASSES_FILE).read_text()))
    try:
        reach_store(job.data.path)
        names = find_source(job.data.path, locations.cache()).class_names()
    except (UserError, OSError):
        names = ()
    return names if len(names) == count else tuple(map(str, range(count)))
