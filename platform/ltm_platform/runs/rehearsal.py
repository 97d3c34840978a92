"""A job tried in a few steps: what is trained for it, what that shows, and its removal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ltm_platform.checks import CheckedJob
    from ltm_platform.job import JobSpec

BATCHES = 3
EPOCHS = 2
"""The second begins with the checkpoint of the first, and has the bound in its loss."""
_LONGEST_NAME = 56


def rehearsal_job(job: JobSpec) -> JobSpec:
    """The job with two epochs of three steps and three batches of validation each.

    Workers, precision, data, storage and tracking store stay; no model is registered, and nothing
    is tried again.
    """
    values = {
        "name": f"{job.name[:_LONGEST_NAME].rstrip('.-_')}-smoke",
        "data.limit_batches": BATCHES,
        "recipe.warmup_epochs": min(job.recipe.warmup_epochs, job.recipe.epochs, EPOCHS),
        "recipe.backbone.frozen_epochs": min(job.recipe.backbone.frozen_epochs, 1),
        "recipe.epochs": EPOCHS,
        "recipe.early_stop": None,
        "cluster.max_failures": 0,
        "tracking.aliases": [],
        "tracking.register_as": None,
        "tracking.log_model": False,
        "tracking.notify": "true",  # the command that does nothing
    }
    for key, value in values.items():
        job = job.replace(key, value)
    return job


@dataclass(frozen=True, slots=True)
class Forecast:
    """What the few steps of a rehearsal say of the whole job."""

    step_s: float
    """Seconds of an optimizer step, once the loader is at its own pace."""
    images_per_s: float
    """Of all workers."""
    network_images_per_s: float
    """What they would be with images at once."""
    loader_images_per_s: float | None
    """What decode processes give; None where there are none, or nothing was measured of them."""
    memory_gib: float
    """The most that a worker has needed: of its GPU, or else of the machine's memory."""
    validation_s: float
    """Of one epoch."""
    hours: float
    """Of all epochs with their validation."""


def forecast(
    checked: CheckedJob, whole: JobSpec, metrics: Mapping[str, float], micro_batch: int
) -> Forecast:
    """From the metrics of a rehearsal's last epoch.

    Its loader was ahead when it was measured, so what it gives is told from what it took for an
    image.

    Args:
        checked: the rehearsal's job, with the whole data set.
        whole: the job that is rehearsed.
        micro_batch: images of a worker's forward pass, of a batch of validation too.
    """
    batch = checked.batch
    share, workers = batch.global_batch // batch.workers, batch.workers
    network_s, decoding_s = batch.global_batch / metrics["train/images_per_s"], 0.0
    loader_s: float | None = None
    if "time/step_s" in metrics:  # else an epoch is one step, the first of its process
        waiting = metrics["time/read_share"] + metrics["time/decode_share"]
        network_s = metrics["time/step_s"] * (1 - waiting)
        decoding_s = (metrics["time/read_ms"] + metrics["time/decode_ms"]) / 1000 * share
    if decoding_s and (processes := metrics["time/decode_processes"]):
        loader_s = decoding_s / processes
    step_s = max(network_s, loader_s) if loader_s else network_s + decoding_s
    at_a_time = micro_batch * workers
    val, data = len(checked.dataset.val), whole.data
    measured = min(BATCHES, -(-val // at_a_time))
    val_batches = -(-data.limited(val, at_a_time) // at_a_time)
    validation_s = metrics["time/validation_s"] * val_batches / measured
    epochs = whole.recipe.epochs
    images = data.limited(len(checked.dataset.train), batch.global_batch)
    steps = -(-epochs * images // batch.global_batch)
    return Forecast(
        step_s=step_s,
        images_per_s=batch.global_batch / step_s,
        network_images_per_s=batch.global_batch / network_s,
        loader_images_per_s=batch.global_batch / loader_s if loader_s else None,
        memory_gib=metrics["memory/peak_gib"],
        validation_s=validation_s,
        hours=(steps * step_s + epochs * validation_s) / 3600,
    )
