"""What fails in Ray: each as one sentence, and whether another attempt may help."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import ray.train

from ltm_platform.compat.ray_core import unwrapped
from ltm_platform.compat.ray_trainer import CausePolicy
from ltm_platform.errors import ReadError, RunError, UserError
from ltm_platform.events import Failed
from ltm_platform.storage.room import lasting_errno

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ltm_platform.events import EventQueue


class RayLostError(RunError):
    """Ray itself has ended."""


class ControllerLostError(RunError):
    """Ray Train's controller, the process that starts the workers, has ended."""


@contextmanager
def as_run_error() -> Iterator[None]:
    """What Ray Train raises in the block, as RunError."""
    try:
        yield
    except ray.train.WorkerGroupError as error:
        raise RunError(first_cause(error.worker_failures)) from error
    except ray.train.TrainingFailedError as error:
        raise RunError(str(error)) from error
    except ray.exceptions.RayActorError as error:
        raise ControllerLostError(
            "Ray Train's controller has ended without a word: killed, or out of memory"
        ) from error


class RetryPolicy(CausePolicy):
    """Failed workers start again, unless what failed is no fault of a machine."""

    def __init__(self, failures: ray.train.FailureConfig, events: EventQueue) -> None:
        super().__init__(failures)
        self._events = events

    def is_final(self, causes: Mapping[int, Exception]) -> bool:
        return any(_is_final(unwrapped(cause)) for cause in causes.values())

    def on_retry(self, error: ray.train.TrainingFailedError) -> None:
        if isinstance(error, ray.train.WorkerGroupError):
            self._events.put_nowait([Failed(first_cause(error.worker_failures))])


def _is_final(cause: BaseException) -> bool:
    correctable = isinstance(cause, UserError) and not isinstance(cause, ReadError)
    return correctable or lasting_errno(cause) is not None


def first_cause(failures: Mapping[int, Exception]) -> str:
    """The rank that broke and its exception in one line, without Ray's wrapping and traceback.

    When a rank is gone the others fail too, in the collective that they wait in. What a user can
    correct is said without the rank: it is a whole sentence, and of no rank's own.
    """
    causes = {rank: unwrapped(error) for rank, error in sorted(failures.items())}
    for cause in causes.values():
        if isinstance(cause, UserError):
            return str(cause)

    lines = {
        rank: f"{type(cause).__name__}: {cause}".splitlines()[0] for rank, cause in causes.items()
    }
    consequences = ("peer", "NCCL", "gloo")
    first = [r for r, text in lines.items() if not any(word in text for word in consequences)]
    rank = (first or list(lines))[0]
    return f"rank {rank}: {lines[rank]}"
