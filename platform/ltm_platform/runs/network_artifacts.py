"""Artifacts of a finished run's best network for MLflow: pictures, and the network as a model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ltm.catalogue.fits import rule
from ltm_platform.data.decode import pixel_rule
from ltm_platform.data.transforms import eval_resize
from ltm_platform.models import create_model, input_pixels, load_weights
from ltm_platform.runs.checkpoint_lookup import checkpoint_tag, tracked_folder
from ltm_platform.runs.pictures import confusion_picture, heatmap_picture
from ltm_platform.storage.checkpoints import best
from ltm_platform.storage.manifest import (
    CLASSES_FILE,
    CONFUSION_FILE,
    EMA_FILE,
    JOB_FILE,
    WEIGHTS_FILE,
    Origin,
    fingerprints,
    manifest_name,
    read_manifest,
    sealed,
)
from ltm_platform.storage.tensors import load_tensors
from ltm_platform.temporary import temporary_folder
from ltm_platform.tracking import RULE_TAG, ImageInput

if TYPE_CHECKING:
    from collections.abc import Sequence
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


def log_checkpoints(
    run: TrackedRun, name: str, found: Sequence[StoredCheckpoint], classes: Sequence[str]
) -> None:
    """Log the best and the last checkpoint of the run ``name``."""
    for kind, checkpoint in (("best", best(found)), ("last", found[-1] if found else None)):
        if checkpoint:
            log_checkpoint(run, name, kind, checkpoint, classes)


def log_checkpoint(
    run: TrackedRun, name: str, kind: str, checkpoint: StoredCheckpoint, classes: Sequence[str]
) -> None:
    """Log weights and job, sealed anew; what else resuming needs stays in storage, with a link."""
    path = checkpoint.fetch()
    listed = read_manifest(path).files
    kept = [file for file in (WEIGHTS_FILE, EMA_FILE, JOB_FILE) if file in listed]
    with temporary_folder("ltm-checkpoint-") as folder:
        classes_file, manifest = folder / CLASSES_FILE, folder / manifest_name(0)
        classes_file.write_text(json.dumps(classes))
        text = sealed(
            Origin(name, run.run_id, path.name),
            # Checksums as they were when the checkpoint was written.
            {file: listed[file] for file in kept} | fingerprints(folder, [CLASSES_FILE]),
            rank=0,
            world_size=1,
            steps_done=checkpoint.steps_done,
            metrics=checkpoint.metrics,
            content="weights",
        )
        manifest.write_bytes(text)
        files = [*(path / file for file in kept), classes_file, manifest]
        run.log_files(files, tracked_folder(kind))
    run.tag(checkpoint_tag(kind), str(checkpoint.source))


def log_results(run: TrackedRun, network: CheckpointedModel) -> None:
    """On the CPU, in a second or two."""
    spec = network.job.model
    if spec.method != "none":
        run.tag(RULE_TAG, rule(spec.method, spec.backbone))
    log_pictures(run, network)
    log_model(run, network)


def log_pictures(run: TrackedRun, network: CheckpointedModel) -> None:
    """What the network confuses and which tokens it merges, at the step of the checkpoint.

    Pictures of that step that the run has already are not drawn again.
    """
    confusion = network.files / CONFUSION_FILE
    if confusion.exists() and not run.has_image(CONFUSION, network.step):
        counts = load_tensors(confusion)["counts"]
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
