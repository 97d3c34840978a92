"""Inference speed of trials, measured one after another once nothing else runs here."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

import ltm
from ltm_platform.models import create_model, input_pixels
from ltm_platform.training.measurement.bench import inference_speed
from ltm_platform.tuning.trial import trial_job

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ltm_platform.job import JobSpec
    from ltm_platform.tracking import TrackedSweep
    from ltm_platform.tuning.results import TrialResult


def measured_alone(
    trials: Sequence[TrialResult], job: JobSpec, classes: int, sweep: TrackedSweep, folder: Path
) -> list[TrialResult]:
    """The trials with comparable speeds: what they measured while others trained is not.

    Trials of the same network share one measurement; speed does not depend on weights. The runs
    of those that finished get it, too. ``folder`` holds the trials' folders.
    """
    speeds: dict[str, dict[str, float]] = {}
    found = []
    for trial in trials:
        if trial.state == "finished":
            own = trial_job(job, trial.values)
            network = repr(own.model)
            if network not in speeds:
                speeds[network] = _speed(own, classes)
            sweep.correct_trial(folder / trial.name, speeds[network])
            trial = replace(trial, metrics={**trial.metrics, **speeds[network]})
        found.append(trial)
    return found


def _speed(job: JobSpec, classes: int) -> dict[str, float]:
    model = ltm.compacted(create_model(job, classes))
    with _threads(max(1, int(job.cluster.cpus_per_worker))):
        speed = inference_speed(model, input_pixels(model).size, torch.device("cpu"))
    return {f"bench/{key}": value for key, value in speed.items()}


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """The number of threads that a trial's worker has."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
