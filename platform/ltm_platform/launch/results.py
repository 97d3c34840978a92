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
    from ltm_platform.launch.history import StoredCheckpoint
    from ltm_platform.preflight import Ready
    from ltm_platform.tracking import TrackedRun


def log_results(run: TrackedRun, ready: Ready, best: StoredCheckpoint) -> None:
    """On the CPU, in a second or two; pictures at the step of the checkpoint."""
    job, dataset = ready.job, ready.dataset
    files = best.fetch()
    step = read_manifest(files).steps_done
    if (files / CONFUSION_FILE).exists():
        counts = load_file(files / CONFUSION_FILE)["counts"]
        run.log_image(confusion_picture(counts, dataset.classes), "confusion matrix", step)

    model = create_model(job, len(dataset.classes)).eval()
    load_weights(model, files / WEIGHTS_FILE)
    pixels = input_pixels(model)
    heatmaps = heatmap_picture(model, dataset.val, pixels)
    if heatmaps:
        run.log_image(heatmaps, "heatmaps", step)

    if job.tracking.log_model:
        inputs = ImageInput(
            pixels.size, eval_resize(pixels.size), pixels.mean, pixels.std, dataset.classes
        )
        model_id = run.log_model(model, inputs, step)
        if job.tracking.register_as:
            run.register_model(model_id, job.tracking.register_as, job.tracking.aliases)
