"""What MLflow gets of a finished run's best network: pictures, and the network as a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safetensors.torch import load_file

from ltm_platform.checkpoints import CONFUSION_FILE, WEIGHTS_FILE, read_manifest
from ltm_platform.data.transforms import eval_resize
from ltm_platform.launch.pictures import confusion_picture, heatmap_picture
from ltm_platform.models import create_model, input_pixels, load_weights
from ltm_platform.tracking import ImageInput

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from ltm_platform.data import Dataset
    from ltm_platform.job import JobSpec
    from ltm_platform.launch.history import StoredCheckpoint
    from ltm_platform.tracking import TrackedRun


def log_results(run: TrackedRun, job: JobSpec, dataset: Dataset, best: StoredCheckpoint) -> None:
    """On the CPU, in a second or two."""
    log_pictures(run, job, dataset, best)
    log_model(run, job, dataset, best)


def log_pictures(run: TrackedRun, job: JobSpec, dataset: Dataset, best: StoredCheckpoint) -> None:
    """What the network confuses and which tokens it merges, at the step of the checkpoint."""
    files = best.fetch()
    step = read_manifest(files).steps_done
    if (files / CONFUSION_FILE).exists():
        counts = load_file(files / CONFUSION_FILE)["counts"]
        run.log_image(confusion_picture(counts, dataset.classes), "confusion matrix", step)
    model = _network(job, dataset, files)
    heatmaps = heatmap_picture(model, dataset.val, input_pixels(model))
    if heatmaps:
        run.log_image(heatmaps, "heatmaps", step)


def log_model(run: TrackedRun, job: JobSpec, dataset: Dataset, best: StoredCheckpoint) -> None:
    """The network as a model of MLflow, registered if the job says so; nothing if it says no."""
    if not job.tracking.log_model:
        return
    files = best.fetch()
    model = _network(job, dataset, files)
    pixels = input_pixels(model)
    inputs = ImageInput(
        pixels.size, eval_resize(pixels.size), pixels.mean, pixels.std, dataset.classes
    )
    model_id = run.log_model(model, inputs, read_manifest(files).steps_done)
    if job.tracking.register_as:
        run.register_model(model_id, job.tracking.register_as, job.tracking.aliases)


def _network(job: JobSpec, dataset: Dataset, files: Path) -> Any:
    model = create_model(job, len(dataset.classes)).eval()
    load_weights(model, files / WEIGHTS_FILE)
    return model
