"""Ray on this machine, for as long as one command runs."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import psutil

from ltm_platform.compat.ray_core import (
    EMBEDDED_SETTINGS,
    SETTINGS,
    is_startup_timeout,
    worker_processes,
)
from ltm_platform.errors import UserError
from ltm_platform.ray_cluster.resources import Resources

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ENVIRONMENT = {
    **SETTINGS,
    # On CPUs, 2 to 5 % of a training step each; ranks inherit it. Large pages for malloc's memory;
    # one heap, since Ray trains in a thread, whose own would go back to the system every step; and
    # that heap is not trimmed up to 1 GiB: large pages that are mapped again must be cleared.
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
    _set(ENVIRONMENT | dict(EMBEDDED_SETTINGS))
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
        if not is_startup_timeout(error):
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
        workers = worker_processes()
        ray.shutdown()
        for process in workers:
            # Sometimes one deadlocks at its exit, in Ray's core, and would never end.
            with suppress(psutil.NoSuchProcess):
                process.kill()
