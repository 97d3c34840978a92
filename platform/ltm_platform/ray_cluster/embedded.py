"""Ray on this machine, for as long as one command runs."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import psutil

from ltm_platform.errors import UserError
from ltm_platform.ray_cluster.resources import Resources

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray's default of 2 s would hold up every report of a run with short epochs.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # Ray's own metrics exporter has no reader here.
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Ray's default of 15 leaves training what every other program on this machine does not want.
    "RAY_worker_niceness": "0",
    # On CPUs, 2 to 5 % of a training step each; ranks inherit it. Large pages for malloc's memory;
    # one heap, since Ray trains in a thread, whose own would go back to the system every step; and
    # that heap stays as it is up to 1 GiB: large pages that come back must be cleared again.
    "GLIBC_TUNABLES": ":".join(
        f"glibc.malloc.{name}={value}"
        for name, value in {
            "hugetlb": 1,
            "arena_max": 1,
            "trim_threshold": 2**30,
            "mmap_threshold": 2**30,
        }.items()
    ),
}


_ALONE = {
    # Nobody takes this machine away: the process that would hear of it is not started.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Nobody looks into this Ray: its processes keep no statistics of themselves and no list of
    # tasks. A tenth of what they take from training where all cores train.
    "RAY_event_stats": "0",
    "RAY_task_events_report_interval_ms": "0",
}


def set_environment() -> None:
    """Ray's settings, where the user has none of their own; before Ray is imported."""
    _set(ENVIRONMENT)


def _set(environment: Mapping[str, str]) -> None:
    for key, value in environment.items():
        os.environ.setdefault(key, value)


def this_machine() -> Resources:
    """The CPUs this process may use, and the visible GPUs."""
    import torch

    return Resources(cpus=len(os.sched_getaffinity(0)), gpus=torch.cuda.device_count())


@contextmanager
def embedded_ray(resources: Resources) -> Iterator[None]:
    """Start Ray here, and end it with all its processes when the block ends."""
    _set(ENVIRONMENT | _ALONE)
    import ray

    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address="local",
            num_cpus=max(1, int(resources.cpus)),
            num_gpus=int(resources.gpus),
            include_dashboard=False,
        )
    except Exception as error:  # Ray has no narrower one for it
        if "timed out during startup" not in str(error):
            raise
        raise UserError(
            "Ray did not start within its 30 seconds: the machine is too busy, or short of memory"
        ) from None
    in_main = threading.current_thread() is threading.main_thread()
    if in_main and callable(on_sigterm):  # Ray has taken the signal over
        signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    finally:
        workers = _workers()
        ray.shutdown()
        for process in workers:
            # Now and then one waits for itself at its end, in Ray's core, and would stay for ever.
            with suppress(psutil.NoSuchProcess):
                process.kill()


def _workers() -> list[psutil.Process]:
    """The processes that Ray's node manager, a child of this one, has started."""
    managers = [child for child in psutil.Process().children() if child.name() == "raylet"]
    return [process for one in managers for process in one.children(recursive=True)]
