"""Artifacts of a finished run's best network for MLflow: pictures, and the network as a model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from safetensors.torch import load_file

from ltm_platform.data.decode import pixel_rule
from ltm_platform.data.transforms import eval_resize
from ltm_platform.models import create_model, input_pixels, load_weights
from ltm_platform.runs.pictures import confusion_picture, heatmap_picture
from ltm_platform.storage.manifest import CONFUSION_FILE, WEIGHTS_FILE, read_manifest
from ltm_platform.tracking import ImageInput

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from ltm_platform.data import Dataset
    from ltm_platform.job import JobSpec
    from ltm_platform.storage.checkpoints import StoredCheckpoint
    from ltm_platform.tracking import TrackedRun


CONFUSION = "confusion matrix"
HEATMAPS = "heatmaps"


@dataclass(frozen=True)
class CheckpointedModel:
    """The network of a checkpoint, with what it was trained for."""

    job: JobSpec
    dataset: Dataset
    checkpoint: StoredCheckpoint

    @cached_property
    def files(self) -> Path:
        return self.checkpoint.fetch()

    @cached_property
    def step(self) -> int:
        return read_manifest(self.files).steps_done

    @cached_property
    def model(self) -> Any:
        model = create_model(self.job, len(self.dataset.classes)).eval()
        load_weights(model, self.files / WEIGHTS_FILE)
        return model


def log_results(run: TrackedRun, network: CheckpointedModel) -> None:
    """On the CPU, in a second or two."""
    log_pictures(run, network)
    log_model(run, network)


def log_pictures(run: TrackedRun, network: CheckpointedModel) -> None:
    """What the network confuses and which tokens it merges, at the step of the checkpoint.

    Pictures of that step that the run has already are not drawn again.
    """
    confusion = network.files / CONFUSION_FILE
    if confusion.exists() and not run.has_image(CONFUSION, network.step):
        counts = load_file(confusion)["counts"]
        picture = confusion_picture(counts, network.dataset.classes)
        run.log_image(picture, CONFUSION, network.step)
    if run.has_image(HEATMAPS, network.step):
        return
    pixels = input_pixels(network.model)
    rule = pixel_rule(network.job.data)
    heatmaps = heatmap_picture(network.model, network.dataset.val, pixels, rule)
    if heatmaps:
        run.log_image(heatmaps, HEATMAPS, network.step)


def log_model(run: TrackedRun, network: CheckpointedModel) -> None:
    """The network as a model of MLflow, registered if the job wants it; nothing if it is off."""
    wish = network.job.tracking
    if not wish.log_model:
        return
    pixels, classes = input_pixels(network.model), network.dataset.classes
    inputs = ImageInput(
        size=pixels.size,
        resize=eval_resize(pixels.size),
        mean=pixels.mean,
        std=pixels.std,
        exif=network.job.data.exif,
        background=network.job.data.background,
        classes=classes,
    )
    model_id = run.log_model(network.model, inputs, network.step)
    if wish.register_as:
        run.register_model(model_id, wish.register_as, wish.aliases)
