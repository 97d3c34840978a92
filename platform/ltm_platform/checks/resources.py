"""Whether a job's workers fit the resources."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from ltm.errors import quoted
from ltm_platform.errors import nearest

if TYPE_CHECKING:
    from ltm_platform.job import JobSpec
    from ltm_platform.ray_cluster.resources import Resources


def check_workers(job: JobSpec, resources: Resources) -> None:
    """Check that the workers fit, of a range the fewest."""
    cpus, (workers, _) = job.cluster.cpus_per_worker, job.cluster.worker_range
    if resources.gpus >= 1 and workers > resources.gpus:
        raise job.error(
            "cluster.workers",
            f"cluster.workers is {workers}, but there are only {resources.gpus:g} GPUs, "
            f"one for a worker",
        )
    largest = max((node[0] for node in resources.nodes), default=resources.cpus)
    if cpus > largest:
        where = " on the largest node" if len(resources.nodes) > 1 else ""
        raise job.error(
            "cluster.cpus_per_worker",
            f"cluster.cpus_per_worker is {cpus:g}, but there are only {largest:g} CPUs{where}",
        )
    room = resources.room(cpus)
    if workers > room:
        where = f", on {len(resources.nodes)} nodes" if len(resources.nodes) > 1 else ""
        raise job.error(
            "cluster.workers",
            f"cluster.workers is {workers} at {cpus:g} CPUs each, "
            f"but there are only {resources.cpus:g} CPUs{where}: take {room} "
            f"workers or fewer, or a smaller cluster.cpus_per_worker",
        )


def check_accelerator(job: JobSpec, resources: Resources) -> None:
    """Check that Ray knows the type of GPU that the job wants, and that there are GPUs."""
    kind = job.cluster.accelerator
    if kind is None:
        return
    from ray.util import accelerators

    known = sorted(name for key, name in vars(accelerators).items() if key[0].isupper())
    key = "cluster.accelerator"
    if kind not in known:
        hint = nearest(kind, known) or f"; allowed are {', '.join(known)}"
        raise job.error(key, f"{key} is {quoted(kind)}, which is no type that Ray knows{hint}")
    if resources.gpus < 1:
        raise job.error(key, f"{key} is {quoted(kind)}, but there are no GPUs: use null")


def compiler_here() -> str | None:
    """The C++ compiler that torch.compile takes on this machine."""
    return shutil.which(os.environ.get("CXX", "g++"))


def check_compiler(job: JobSpec, resources: Resources) -> None:
    """Check for a compiler, where the job compiles and trains on this machine alone."""
    if job.engine.compile and not resources.nodes and not compiler_here():
        raise job.error(
            "engine.compile",
            "engine.compile is true, but there is no C++ compiler: install g++ (or name another "
            "one in CXX), or use false",
        )


def workers_now(job: JobSpec, resources: Resources) -> int:
    """As many workers as the job wants and there is room for."""
    fewest, most = job.cluster.worker_range
    return max(fewest, min(most, resources.room(job.cluster.cpus_per_worker)))
