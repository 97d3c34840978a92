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
    norm_group: int = 1
    """Neighbouring workers that share the statistics of batch normalisation, so that these are of
    as many images as with one worker."""


def plan_batch(
    global_batch: int, limit: int | None, workers: int, *, even: bool = False
) -> BatchPlan:
    """Divide the global batch among the workers, each share into equal micro-batches.

    Args:
        limit: the most images of a micro-batch; None for the whole share.
        even: micro-batches hold pairs of images, where the share and the limit allow that.

    Raises:
        ValueError: it does not divide by the workers; one sentence names what would.
    """
    share, rest = divmod(global_batch, workers)
    if rest:
        raise ValueError(_explain(global_batch, workers))
    micro = _micro_batch(share, limit, even=even)
    group = 1
    if limit is not None:
        # A step's micro-batches go to the ranks in turn: the group sees what one worker would.
        of_one = _micro_batch(global_batch, limit, even=even)
        if of_one % micro == 0 and workers % (of_one // micro) == 0:
            group = of_one // micro
    return BatchPlan(global_batch, micro, share // micro, workers, group)


def micro_batches(share: int, *, even: bool) -> list[int]:
    """All micro-batches that divide a worker's share of the global batch, from small to large."""
    small = [n for n in range(1, math.isqrt(share) + 1) if share % n == 0]
    found = sorted({*small, *(share // n for n in small)})
    return [n for n in found if not (even and n % 2)]


def _micro_batch(share: int, limit: int | None, *, even: bool) -> int:
    if limit is None:
        return share
    pairs = [n for n in micro_batches(share, even=even) if n <= limit]
    return pairs[-1] if pairs else 1


def plan_batches(
    global_batch: int, limit: int | None, workers: tuple[int, int], *, even: bool = False
) -> list[BatchPlan]:
    """`plan_batch` for every number of workers from the fewest to the most."""
    fewest, most = workers
    if fewest == most:
        return [plan_batch(global_batch, limit, most, even=even)]
    counts = range(fewest, most + 1)
    step = math.lcm(*counts)
    if global_batch % step:
        raise ValueError(
            f"recipe.global_batch is {global_batch}, which does not divide by every number "
            f"of workers from {fewest} to {most}; {_batches(global_batch, step)}"
            f"a fixed number of workers"
        )
    return [plan_batch(global_batch, limit, count, even=even) for count in counts]


def wastes_passes(plan: BatchPlan, limit: int | None) -> bool:
    """Whether micro-batches are less than half of what they might be, since the share of a worker
    divides by nothing larger."""
    share = plan.micro_batch * plan.accumulation
    return limit is not None and 2 * plan.micro_batch <= min(limit, share)


def largest_batch(
    images: int, limit: int | None, workers: tuple[int, int], *, even: bool
) -> int | None:
    """The largest global batch of at most so many images that every number of workers divides,
    preferably into large micro-batches; None: there is none."""
    fewest, most = workers
    unit = math.lcm(*range(fewest, most + 1)) * (2 if even else 1)
    largest = images // unit * unit
    if not largest:
        return None
    for batch in range(largest, 0, -unit):
        plans = plan_batches(batch, limit, workers, even=even)
        if not any(wastes_passes(plan, limit) for plan in plans):
            return batch
    return largest


def _batches(global_batch: int, step: int) -> str:
    """Advice: the batches nearest to the one that is wrong, where they are of a sensible size."""
    below = global_batch // step * step
    batches = [batch for batch in (below, below + step) if 0 < batch <= MOST_IMAGES]
    return f"use a global batch of {' or '.join(map(str, batches))}, or " if batches else "use "


def _explain(global_batch: int, workers: int) -> str:
    counts = list(_nearest_workers(global_batch, workers))
    advice = _batches(global_batch, workers)
    noun = "worker" if counts == [1] else "workers"
    return (
        f"recipe.global_batch is {global_batch}, which does not divide by {workers} workers; "
        f"{advice}{' or '.join(map(str, counts))} {noun}"
    )


def _nearest_workers(global_batch: int, workers: int) -> Iterator[int]:
    """The next smaller and the next larger worker count that divide the batch, where they exist."""
    for candidates in (
        range(min(workers - 1, global_batch), 0, -1),
        range(workers + 1, min(global_batch, MOST_WORKERS) + 1),
    ):
        yield from [count for count in candidates if global_batch % count == 0][:1]
