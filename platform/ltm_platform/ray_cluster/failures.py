"""Ray's reports of failed ranks, as one sentence."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import ray.train

from ltm_platform.compat.ray_core import unwrapped
from ltm_platform.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def as_run_error() -> Iterator[None]:
    """What Ray Train raises in the block, as RunError."""
    try:
        yield
    except ray.train.WorkerGroupError as error:
        raise RunError(_first_cause(error.worker_failures)) from error
    except ray.train.TrainingFailedError as error:
        raise RunError(str(error)) from error


def _first_cause(failures: dict[int, Exception]) -> str:
    """The rank that broke and its exception in one line, without Ray's wrapping and traceback.

    When a rank is gone the others fail too, in the collective that they wait in.
    """

    def line(error: BaseException) -> str:
        cause = unwrapped(error)
        return f"{type(cause).__name__}: {cause}".splitlines()[0]

    lines = {rank: line(error) for rank, error in sorted(failures.items())}
    consequences = ("peer", "NCCL", "gloo")
    causes = [r for r, text in lines.items() if not any(word in text for word in consequences)]
    rank = (causes or list(lines))[0]
    return f"rank {rank}: {lines[rank]}"
