"""What a job would take and do, told before anything is taken."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ltm_platform import preflight
from ltm_platform.job.batch import plan_batch
from ltm_platform.launch import joined
from ltm_platform.launch.address import EMBEDDED
from ltm_platform.launch.venue import resources_at
from ltm_platform.training import estimates

if TYPE_CHECKING:
    from ltm_platform.job import BatchPlan, JobSpec
    from ltm_platform.preflight import Ready, Resources
    from ltm_platform.training.estimates import Memory


@dataclass(frozen=True, slots=True)
class RunPlan:
    """All that is known of a run before it starts."""

    ready: Ready
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
    """Of one image."""
    storage: str
    storage_s: float
    """Seconds to write, read back and remove a file there, on every node."""
    images: int
    """That all epochs train on."""

    def hours(self, images_per_s: float) -> float:
        """Of training alone, at so many images a second by all workers together."""
        return self.images / images_per_s / 3600


def plan_run(job: JobSpec, address: str) -> RunPlan:
    """Check the job and see what it would take; a Ray that is there is joined, none is started.

    Raises:
        UserError: the job is wrong in a way that nothing could override.
    """
    there = free = at_most = resources_at(address)
    if address != EMBEDDED:
        there, free = joined.there(), joined.free()
    nodes = len(there.nodes) or 1
    ready = preflight.check(job, at_most, force=True)
    overridable = preflight.Overridable(force=True)
    began = time.perf_counter()
    with overridable():
        preflight.check_storage(ready.job)
        if address != EMBEDDED:
            joined.check_shared_storage(ready.job)
    seconds = time.perf_counter() - began
    missed = [problem for problem in overridable.problems if problem not in ready.problems]
    ready = preflight.with_problems(ready, missed)
    job, workers = ready.job, ready.batch.workers
    batches, refused = _batches(job)
    parameters = round(ready.cost.params_m * 1e6)
    num_classes = len(ready.dataset.classes)
    rows = estimates.memory(
        job, parameters, _largest_layer(job, num_classes), workers, min(nodes, workers)
    )
    return RunPlan(
        ready=ready,
        there=there,
        free=free,
        at_most=at_most,
        nodes=nodes,
        batches=batches,
        refused=refused,
        deepspeed=estimates.resolved_config(job, ready.batch),
        memory=tuple(rows),
        activation_bytes=estimates.activations(job, num_classes),
        storage=str(preflight.storage_root(job)),
        storage_s=seconds,
        images=job.recipe.epochs * len(ready.dataset.train),
    )


def _batches(job: JobSpec) -> tuple[tuple[BatchPlan, ...], dict[int, str]]:
    """For the numbers of workers in the job's range; of one number, for all up to it, too."""
    micro = None if job.recipe.micro_batch == "auto" else job.recipe.micro_batch
    fewest, most = job.cluster.worker_range
    plans, refused = [], {}
    for workers in range(1 if fewest == most else fewest, most + 1):
        try:
            plans.append(plan_batch(job.recipe.global_batch, micro, workers))
        except ValueError as error:
            refused[workers] = str(error)
    return tuple(plans), refused


def _largest_layer(job: JobSpec, num_classes: int) -> int:
    """Parameters of the layer that has most, without those of the layers in it."""
    from ltm_platform.models import create_model

    model = create_model(job.replace("model.pretrained", False), num_classes)
    own = [sum(p.numel() for p in m.parameters(recurse=False)) for m in model.modules()]
    return max(own)
