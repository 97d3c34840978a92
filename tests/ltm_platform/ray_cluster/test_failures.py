"""What Ray Train says of failed ranks, in one sentence."""

from __future__ import annotations

from queue import SimpleQueue
from typing import TYPE_CHECKING

import pytest
import ray.train
from ray.exceptions import ActorDiedError, RayTaskError
from ray.train.v2._internal.execution.failure_handling import FailureDecision

from ltm_platform.errors import ReadError, RunError, UserError
from ltm_platform.ray_cluster.failures import ControllerLostError, RetryPolicy, as_run_error

if TYPE_CHECKING:
    from ltm_platform.events import Failed


def failed(failures: dict[int, Exception]) -> str:
    with pytest.raises(RunError) as error, as_run_error():
        raise ray.train.WorkerGroupError("two ranks failed", failures)
    assert isinstance(error.value.__cause__, ray.train.WorkerGroupError)
    return str(error.value)


def test_the_lowest_rank_is_named_with_the_first_line_of_its_error() -> None:
    causes = {1: ValueError("second"), 0: ValueError("first\nand more")}
    assert failed(causes) == "rank 0: ValueError: first"


@pytest.mark.parametrize("consequence", ["Connection closed by peer", "NCCL error", "gloo failed"])
def test_who_only_lost_the_others_is_not_blamed(consequence: str) -> None:
    causes = {0: RuntimeError(consequence), 1: MemoryError("no memory")}
    assert failed(causes) == "rank 1: MemoryError: no memory"
    assert failed({0: RuntimeError(consequence)}) == f"rank 0: RuntimeError: {consequence}"


def test_rays_own_wrapping_is_taken_off() -> None:
    wrapped = RuntimeError("wrapped")
    wrapped.cause = KeyError("inner")  # type: ignore[attr-defined]
    assert failed({0: wrapped}) == "rank 0: KeyError: 'inner'"


def test_other_errors_pass() -> None:
    with pytest.raises(OSError, match="disk"), as_run_error():
        raise OSError("disk")


def test_a_killed_controller_is_a_sentence() -> None:
    with pytest.raises(ControllerLostError, match="controller has ended"), as_run_error():
        raise ActorDiedError


def policy(most: int) -> tuple[RetryPolicy, SimpleQueue[list[Failed]]]:
    events: SimpleQueue[list[Failed]] = SimpleQueue()
    return RetryPolicy(ray.train.FailureConfig(max_failures=most), events), events


def decisions(most: int, *causes: Exception) -> tuple[list[FailureDecision], list[str]]:
    """Of as many failures of rank 1, and what the driver hears of them."""
    own, events = policy(most)
    made = [own.make_decision(ray.train.WorkerGroupError("", {1: cause})) for cause in causes]
    return made, [events.get()[0].reason for _ in range(events.qsize())]


def test_a_failed_rank_is_tried_again_as_often_as_allowed_and_said_each_time() -> None:
    made, heard = decisions(1, MemoryError("first"), MemoryError("second"))
    assert made == [FailureDecision.RETRY, FailureDecision.RAISE]
    assert heard == ["rank 1: MemoryError: first"]


def test_what_a_user_can_correct_is_not_tried_again() -> None:
    own = UserError("the shard is damaged")
    wrapped = RayTaskError("task", "a long traceback", own)
    for error in (own, wrapped, wrapped.as_instanceof_cause()):
        assert decisions(5, error) == ([FailureDecision.RAISE], [])
    assert failed({0: RuntimeError("lost its peer"), 1: own}) == "the shard is damaged"


def test_what_cannot_be_read_now_is_tried_again() -> None:
    made, _ = decisions(1, ReadError("s3://bucket/shard cannot be read: timeout."))
    assert made == [FailureDecision.RETRY]
