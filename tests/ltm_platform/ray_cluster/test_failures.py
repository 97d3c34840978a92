"""What Ray Train says of failed ranks, in one sentence."""

from __future__ import annotations

import pytest
import ray.train

from ltm_platform.errors import RunError
from ltm_platform.ray_cluster.failures import as_run_error


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
