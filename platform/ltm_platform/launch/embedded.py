"""Ray on this machine, for as long as one command runs."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ltm_platform.preflight import Resources

if TYPE_CHECKING:
    from collections.abc import Iterator

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray's default of 2 s would hold up every report of a run with short epochs.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # Ray's own metrics exporter has no reader here.
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Ray's default of 15 leaves training what every other program on this machine does not want.
    "RAY_worker_niceness": "0",
}


def set_environment() -> None:
    """Ray's settings, where the user has none of their own; before Ray is imported."""
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)


def this_machine() -> Resources:
    """The CPUs this process may use, and the visible GPUs."""
    import torch

    return Resources(cpus=len(os.sched_getaffinity(0)), gpus=torch.cuda.device_count())


@contextmanager
def embedded_ray(resources: Resources) -> Iterator[None]:
    """Start Ray here, and end it with all its processes when the block ends."""
    set_environment()
    import ray

    ray.init(
        address="local",
        num_cpus=max(1, int(resources.cpus)),
        num_gpus=int(resources.gpus),
        include_dashboard=False,
    )
    try:
        yield
    finally:
        ray.shutdown()
