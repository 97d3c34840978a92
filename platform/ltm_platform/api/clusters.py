"""Start, inspect and end clusters, and the Ray that stays on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltm_platform.api.process import restored_process
from ltm_platform.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from ltm_platform.ray_cluster.jobs_api import Sent
    from ltm_platform.ray_cluster.resources import Resources


@dataclass(frozen=True, slots=True)
class LocalRay:
    """A Ray on this machine that outlives the process that started it."""

    address: str
    """The value for ``address`` of `submit`, which finds it by itself."""
    going_on: tuple[Sent, ...]
    """Commands that were sent there and have not ended."""


@restored_process()
def start_local_ray() -> tuple[LocalRay, Resources]:
    """Start one with all CPUs and GPUs of this machine, which are returned.

    Raises:
        UserError: one is up already, or it does not start.
    """
    from ltm_platform.ray_cluster import local_ray
    from ltm_platform.ray_cluster.embedded import this_machine

    machine = this_machine()
    return LocalRay(local_ray.start(machine).address, ()), machine


@restored_process()
def local_ray() -> LocalRay | None:
    """The one that is running.

    Raises:
        UserError: it does not answer.
    """
    from ltm_platform.ray_cluster import local_ray
    from ltm_platform.ray_cluster.jobs_api import JobsClient

    running = local_ray.running()
    if running is None:
        return None
    sent = JobsClient(running.address).sent()
    return LocalRay(running.address, tuple(one for one in sent if not one.ended))


def stop_local_ray() -> None:
    """End it, and with it the runs on it.

    Raises:
        UserError: there is none.
    """
    from ltm_platform.ray_cluster import local_ray

    running = local_ray.running()
    if running is None:
        raise UserError("there is no Ray of ltm-platform on this machine")
    local_ray.stop(running)


def cluster_up(file: Path, *, yes: bool = False) -> int:
    """Start the cluster of a file by Ray's launcher, which asks and prints in the terminal; its
    exit code.

    Raises:
        UserError: the file does not fit, or without ``yes`` there is no terminal to confirm in.
    """
    from ltm_platform.ray_cluster import launcher

    return launcher.up(file, yes=yes)


def cluster_down(file: Path, *, yes: bool = False) -> int:
    """End the cluster of a file, as of `cluster_up`."""
    from ltm_platform.ray_cluster import launcher

    return launcher.down(file, yes=yes)


def cluster_status(file: Path) -> str:
    """The output of ``ray status`` on the head of a file's cluster.

    Raises:
        UserError: there is none, or it cannot be reached.
    """
    from ltm_platform.ray_cluster import launcher

    return launcher.status(file)
