"""What a job would take and do, computed before anything is taken."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ltm_platform import checks
from ltm_platform.checks.stores import free_storage, needed_bytes
from ltm_platform.errors import UserError
from ltm_platform.ray_cluster import attach
from ltm_platform.ray_cluster.session import Session, session
from ltm_platform.storage.run_folder import storage_root
from ltm_platform.training.measurement import estimates

if TYPE_CHECKING:
    from torch import nn

    from ltm_platform.checks import CheckedJob
    from ltm_platform.job import BatchPlan, JobSpec
    from ltm_platform.models import Pixels
    from ltm_platform.ray_cluster.resources import Resources
    from ltm_platform.training.measurement.estimates import Memory
    from ltm_platform.training.measurement.throughput import Throughput


@dataclass(frozen=True, slots=True)
class RunPlan:
    """All that is known of a run before it starts."""

    checked: CheckedJob
    there: Resources
    free: Resources
    at_most: Resources
    nodes: int
    batches: tuple[BatchPlan, ...]
    """For every number of workers that the job allows."""
    refused: dict[int, str]
    """Why other numbers of workers cannot share the global batch."""
    deepspeed: dict[str, Any] | None
    """Its configuration; None where it takes no part."""
    memory: tuple[Memory, ...]
    """At every ZeRO stage."""
    activation_bytes: int
    """Bytes for one image."""
    storage: str
    storage_s: float
    """Seconds to write, read back and remove a file there, on every node."""
    needed_bytes: int
    """Bytes of the checkpoints that are there at a time."""
    free_bytes: int | None
    """Bytes that are free for them; None: an object store."""
    images: int
    """Images of all epochs."""
    throughput: Throughput | None
    """Of one worker, tried on this machine; None where the job has problems."""

    def hours(self, images_per_s: float) -> float:
        """Hours of training alone, at so many images a second of all workers together."""
        return self.images / images_per_s / 3600


def plan_run(job: JobSpec, address: str) -> RunPlan:
    """Check the job and see what it would take; a Ray that is there is joined, none is started.

    Raises:
        UserError: the job is wrong in a way that nothing could override.
    """
    with session(address) as ray:
        return plan_in(job, ray)


def plan_in(job: JobSpec, ray: Session) -> RunPlan:
    """`plan_run` with what a session has."""
    from ltm_platform.models import create_model, input_pixels

    there = free = at_most = ray.resources
    if ray.joined:
        there, free = attach.there(), attach.free()
    nodes = len(there.nodes) or 1
    checked = checks.check(job, at_most, force=True)
    collector = checks.ErrorCollector(force=True)
    began = time.perf_counter()
    if ray.joined:
        with collector():
            attach.check_shared_storage(checked.job)
    seconds = checked.storage_s + time.perf_counter() - began
    missed = [problem for problem in collector.problems if problem not in checked.problems]
    checked = checks.with_problems(checked, missed)
    job, workers = checked.job, checked.batch.workers
    batches, refused = _batches(job)
    parameters = round(checked.cost.params_m * 1e6)
    num_classes = len(checked.dataset.classes)
    model = create_model(job.replace("model.pretrained", False), num_classes)
    rows = estimates.memory(job, parameters, _largest_layer(model), workers, min(nodes, workers))
    return RunPlan(
        checked=checked,
        there=there,
        free=free,
        at_most=at_most,
        nodes=nodes,
        batches=batches,
        refused=refused,
        deepspeed=estimates.resolved_config(job, checked.batch),
        memory=tuple(rows),
        activation_bytes=estimates.activations(job, num_classes),
        storage=str(storage_root(job)),
        storage_s=seconds,
        needed_bytes=needed_bytes(job, parameters, workers),
        free_bytes=free_storage(job),
        images=job.recipe.epochs * _images_of_epoch(checked),
        throughput=_throughput(checked, nodes, input_pixels(model)),
    )


def _throughput(checked: CheckedJob, nodes: int, pixels: Pixels) -> Throughput | None:
    from ltm_platform.training.measurement.throughput import measure

    if checked.problems:
        return None
    return measure(
        checked.job,
        checked.dataset,
        pixels,
        micro_batch=checked.batch.micro_batch,
        workers_here=-(-checked.batch.workers // nodes),
        use_gpu=checked.use_gpu,
    )


def _batches(job: JobSpec) -> tuple[tuple[BatchPlan, ...], dict[int, str]]:
    """For the numbers of workers in the job's range; of one number, for all up to it, too."""
    fewest, most = job.cluster.worker_range
    plans, refused = [], {}
    for workers in range(1 if fewest == most else fewest, most + 1):
        try:
            plans.append(job.batch(workers))
        except UserError as error:
            refused[workers] = str(error)
    return tuple(plans), refused


def _images_of_epoch(checked: CheckedJob) -> int:
    return checked.job.data.limited(len(checked.dataset.train), checked.batch.global_batch)


def _largest_layer(model: nn.Module) -> int:
    """Parameters of the layer that has most, without those of the layers in it."""
    own = [sum(p.numel() for p in m.parameters(recurse=False)) for m in model.modules()]
    return max(own)
