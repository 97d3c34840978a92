"""The global batch divides the same way for every number of workers, or says what would."""

from __future__ import annotations

import pytest

from ltm_platform.errors import UserError
from ltm_platform.job import BatchPlan, JobSpec
from ltm_platform.job.batch import micro_batches, plan_batch, plan_batches


def job(*overrides: str) -> JobSpec:
    base = ["recipe.global_batch=64", "recipe.micro_batch=null", "cluster.workers=auto"]
    return JobSpec.load("quickstart", [*base, *overrides])


@pytest.mark.parametrize("workers", [1, 2, 4, 8, 64])
def test_without_a_micro_batch_each_worker_takes_its_share(workers: int) -> None:
    assert job().batch(workers) == BatchPlan(64, 64 // workers, 1, workers)


@pytest.mark.parametrize(("workers", "accumulation"), [(1, 8), (2, 4), (4, 2), (8, 1)])
def test_a_micro_batch_is_accumulated(workers: int, accumulation: int) -> None:
    plan = job("recipe.micro_batch=8").batch(workers)
    assert plan == BatchPlan(64, 8, accumulation, workers)
    assert plan.micro_batch * plan.accumulation * plan.workers == plan.global_batch


@pytest.mark.parametrize(
    ("overrides", "workers", "expected"),
    [
        (
            ["recipe.global_batch=50"],
            4,
            "--set recipe.global_batch=50: recipe.global_batch is 50, which does not divide by "
            "4 workers; use a global batch of 48 or 52, or 2 or 5 workers",
        ),
        (
            ["recipe.global_batch=3"],
            4,
            "--set recipe.global_batch=3: recipe.global_batch is 3, which does not divide by "
            "4 workers; use a global batch of 4, or 3 workers",
        ),
        (
            ["recipe.global_batch=64", "recipe.micro_batch=64"],
            3,
            "--set recipe.global_batch=64: recipe.global_batch is 64, which does not divide by "
            "3 workers; use a global batch of 63 or 66, or 2 or 4 workers",
        ),
    ],
)
def test_what_would_divide_is_named(overrides: list[str], workers: int, expected: str) -> None:
    with pytest.raises(UserError) as error:
        job(*overrides).batch(workers)
    assert str(error.value) == expected


@pytest.mark.parametrize("workers", range(1, 40))
def test_the_advice_is_right(workers: int) -> None:
    spec = job("recipe.global_batch=48")
    try:
        spec.batch(workers)
    except UserError as error:
        advice = str(error).partition("use a global batch of ")[2]
        batches, _, counts = advice.partition(", or ")
        for batch in batches.split(" or "):
            spec.replace("recipe.global_batch", int(batch)).batch(workers)
        for count in counts.removesuffix("s").removesuffix(" worker").split(" or "):
            spec.batch(int(count))
    else:
        assert 48 % workers == 0


@pytest.mark.parametrize("micro", [None, 2])
def test_every_number_of_workers_of_a_range_keeps_the_global_batch(micro: int | None) -> None:
    plans = plan_batches(48, micro, (1, 4))
    assert [plan.workers for plan in plans] == [1, 2, 3, 4]
    for plan in plans:
        assert plan.micro_batch * plan.accumulation * plan.workers == 48


def test_a_range_that_the_batch_does_not_divide_by_is_told_what_would() -> None:
    with pytest.raises(ValueError, match="every number of workers from 2 to 4") as error:
        plan_batches(32, None, (2, 4))
    assert "use a global batch of 24 or 36" in str(error.value)


@pytest.mark.parametrize(
    ("workers", "micro", "accumulation", "group"),
    [(1, 64, 4, 1), (2, 64, 2, 1), (4, 64, 1, 1), (8, 32, 1, 2), (16, 16, 1, 4), (256, 1, 1, 64)],
)
def test_a_micro_batch_is_a_limit_and_batch_norm_keeps_it(
    workers: int, micro: int, accumulation: int, group: int
) -> None:
    """Eight GPUs of a node take 32 of 256 images each."""
    assert plan_batch(256, 64, workers) == BatchPlan(256, micro, accumulation, workers, group)


@pytest.mark.parametrize("batch", [1, 7, 48, 96, 127, 250, 256])
@pytest.mark.parametrize("limit", [None, 1, 5, 24, 60, 64, 1000])
@pytest.mark.parametrize("even", [False, True])
def test_any_limit_divides_any_batch(batch: int, limit: int | None, even: bool) -> None:
    for workers in (n for n in range(1, batch + 1) if batch % n == 0):
        plan = plan_batch(batch, limit, workers, even=even)
        assert plan.micro_batch * plan.accumulation * plan.workers == batch
        assert plan.micro_batch <= (limit or batch)
        assert plan.workers % plan.norm_group == 0
        if plan.norm_group > 1:  # whole groups, beginning where one worker's micro-batch does
            of_one = plan_batch(batch, limit, 1, even=even).micro_batch
            assert plan.micro_batch * plan.norm_group == of_one
            assert plan.micro_batch * plan.workers % of_one == 0


@pytest.mark.parametrize(
    ("share", "even", "expected"),
    [
        (1, False, [1]),
        (12, False, [1, 2, 3, 4, 6, 12]),
        (12, True, [2, 4, 6, 12]),
        (64, False, [1, 2, 4, 8, 16, 32, 64]),
    ],
)
def test_what_divides_a_share(share: int, even: bool, expected: list[int]) -> None:
    assert micro_batches(share, even=even) == expected
