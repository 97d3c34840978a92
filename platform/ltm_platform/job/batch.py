"""The global batch is the contract: micro-batch and accumulation follow from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltm_platform.job.fields import MOST_IMAGES, MOST_WORKERS

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class BatchPlan:
    """``global_batch == micro_batch * accumulation * workers``, always."""

    global_batch: int
    """Images per optimizer step, over all workers."""
    micro_batch: int
    """Images per forward pass of one worker."""
    accumulation: int
    """Forward passes of one worker per optimizer step."""
    workers: int


def plan_batch(global_batch: int, micro_batch: int | None, workers: int) -> BatchPlan:
    """Divide the global batch; ValueError with one sentence naming what would divide."""
    step = (micro_batch or 1) * workers
    if global_batch % step:
        raise ValueError(_explain(global_batch, micro_batch, workers))
    micro = micro_batch or global_batch // workers
    return BatchPlan(global_batch, micro, global_batch // (micro * workers), workers)


def plan_batches(
    global_batch: int, micro_batch: int | None, workers: tuple[int, int]
) -> list[BatchPlan]:
    """`plan_batch` for every number of workers from the fewest to the most."""
    fewest, most = workers
    if fewest == most:
        return [plan_batch(global_batch, micro_batch, most)]
    counts = range(fewest, most + 1)
    step = math.lcm(*counts) * (micro_batch or 1)
    if global_batch % step:
        micro = "" if micro_batch is None else f" in micro-batches of {micro_batch}"
        raise ValueError(
            f"recipe.global_batch is {global_batch}, which does not divide{micro} by every number "
            f"of workers from {fewest} to {most}; {_batches(global_batch, step)}"
            f"a fixed number of workers"
        )
    return [plan_batch(global_batch, micro_batch, count) for count in counts]


def _batches(global_batch: int, step: int) -> str:
    """Advice: the batches nearest to the one that is wrong, where they are of a sensible size."""
    below = global_batch // step * step
    batches = [batch for batch in (below, below + step) if 0 < batch <= MOST_IMAGES]
    return f"use a global batch of {' or '.join(map(str, batches))}, or " if batches else "use "


def _explain(global_batch: int, micro_batch: int | None, workers: int) -> str:
    step = (micro_batch or 1) * workers
    factors = []
    if micro_batch is not None:
        factors.append(f"recipe.micro_batch {micro_batch}")
    if workers > 1:
        factors.append(f"{workers} workers")
    divisor = " x ".join(factors) + (f" = {step}" if len(factors) > 1 else "")

    counts = list(_nearest_workers(global_batch, micro_batch or 1, workers))
    advice = _batches(global_batch, step)
    if counts:
        noun = "worker" if counts == [1] else "workers"
        advice += f"{' or '.join(map(str, counts))} {noun}"
    elif advice == "use ":
        advice += "a smaller recipe.micro_batch"
    else:
        advice = advice.removesuffix(", or ")
    return f"recipe.global_batch is {global_batch}, which does not divide by {divisor}; {advice}"


def _nearest_workers(global_batch: int, micro_batch: int, workers: int) -> Iterator[int]:
    """The next smaller and the next larger worker count that divide the batch, where they exist."""
    shares, rest = divmod(global_batch, micro_batch)
    if rest:
        return
    for candidates in (
        range(min(workers - 1, shares), 0, -1),
        range(workers + 1, min(shares, MOST_WORKERS) + 1),
    ):
        yield from [count for count in candidates if shares % count == 0][:1]
