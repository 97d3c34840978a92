"""Ray on this machine, for as long as one command runs."""

from __future__ import annotations

import gc
import math
import os
import signal
import threading
import traceback
import warnings
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import psutil
from tenacity import (
    RetryError,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_after_delay,
    stop_all,
)

from ltm_platform.compat.ray_core import (
    EMBEDDED_SETTINGS,
    SETTINGS,
    START_ATTEMPTS,
    START_S,
    is_startup_timeout,
    node_managers,
    session_folder,
)
from ltm_platform.errors import UserError
from ltm_platform.ray_cluster import forked_workers
from ltm_platform.ray_cluster.machine.sessions import remember, remove_old
from ltm_platform.ray_cluster.resources import Resources

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
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


def visible_gpus(count: int) -> list[str]:
    """The names of the visible GPUs, of which there are ``count``."""
    named = os.environ.get(VISIBLE_GPUS)
    return named.split(",")[:count] if named else [str(index) for index in range(count)]


class EmbeddedRay:
    """A Ray on this machine, of this process's own."""

    def __init__(self, resources: Resources, gpus: Sequence[str] | None = None) -> None:
        """``gpus``: those that it has, as ``CUDA_VISIBLE_DEVICES`` names them; None: all."""
        self._resources, self._gpus = resources, gpus
        self._session: Path | None = None

    def start(self) -> None:
        """Raises: UserError: it does not start."""
        _set(ENVIRONMENT | dict(EMBEDDED_SETTINGS))
        if self._gpus is not None:
            os.environ[VISIBLE_GPUS] = ",".join(self._gpus)
        on_sigterm = signal.getsignal(signal.SIGTERM)
        retrying = Retrying(
            retry=retry_if_exception(is_startup_timeout),
            stop=stop_all(stop_after_delay(START_S), stop_after_attempt(START_ATTEMPTS)),
        )
        try:
            retrying(self._init)
        except RetryError:
            raise UserError(
                f"Ray did not start, {START_ATTEMPTS} times and for more than {START_S} seconds: "
                f"the machine is too busy, or short of memory"
            ) from None
        self._session = session_folder()
        remember(self._session)
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and callable(on_sigterm):  # Ray has taken the signal over
            signal.signal(signal.SIGTERM, on_sigterm)

    def _init(self) -> None:
        import ray

        before = psutil.Process().children(recursive=True)
        try:
            with forked_workers.used():
                ray.init(
                    address="local",
                    num_cpus=max(1, math.ceil(self._resources.cpus)),
                    num_gpus=int(self._resources.gpus),
                    include_dashboard=False,
                )
        except Exception as error:  # Ray has no narrower one, and leaves what it has started
            after = psutil.Process().children(recursive=True)
            _kill([process for process in after if process not in before])
            _forget(error)
            raise

    def end(self) -> None:
        """End it with all its processes."""
        import ray

        workers = _workers()
        ray.shutdown()
        _kill(workers)
        if self._session:
            remove_old(self._session)

    def renew(self) -> None:
        """End what is left of it, and start another."""
        self.end()
        self.start()


@contextmanager
def embedded_ray(resources: Resources, gpus: Sequence[str] | None = None) -> Iterator[EmbeddedRay]:
    """Start Ray here, and end it with all its processes when the block ends."""
    ray = EmbeddedRay(resources, gpus)
    ray.start()
    try:
        yield ray
    finally:
        ray.end()


def end_workers() -> None:
    """Kill all workers of this process's own Ray, which no longer can."""
    _kill(_workers())


def _workers() -> list[psutil.Process]:
    """All of this process's own Ray, and what they have started."""
    managers = node_managers()
    started = [process for one in managers for process in one.children(recursive=True)]
    forked = forked_workers.workers_of([one.pid for one in managers])
    return started + [process for one in forked for process in _family(one)]


def _family(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _forget(error: Exception) -> None:
    """Drop what the frames of an error hold: processes that nobody waits for, of which Python would
    warn wherever they are collected later."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        traceback.clear_frames(error.__traceback__)
        gc.collect()


def _kill(workers: list[psutil.Process]) -> None:
    for process in workers:
        # Sometimes one deadlocks at its exit, in Ray's core, and would never end.
        with suppress(psutil.NoSuchProcess):
            process.kill()
