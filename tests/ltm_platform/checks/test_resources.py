"""Whether there is room for the workers."""

from __future__ import annotations

import pytest

from ltm_platform.ray_cluster.resources import Resources

from .conftest import JOB, checked, refusal


@pytest.mark.parametrize(
    ("cpus", "gpus", "each", "workers", "use_gpu"),
    [
        (2, 0, 1, 2, False),
        (1, 0, 1, 1, False),
        (64, 0, 1, 2, False),
        (3, 0, 2, 1, False),
        (64, 8, 1, 8, True),
        (64, 1, 1, 1, True),
    ],
)
def test_auto_is_one_worker_a_gpu_or_at_most_two_on_cpus(
    cpus: int, gpus: int, each: int, workers: int, use_gpu: bool
) -> None:
    got = checked(f"cluster.cpus_per_worker={each}", resources=Resources(cpus=cpus, gpus=gpus))
    assert (got.job.cluster.workers, got.batch.workers, got.use_gpu) == (workers, workers, use_gpu)
    assert got.batch.global_batch == 64


def test_more_workers_than_cpus_are_refused() -> None:
    text = JOB.replace("auto", "4")
    line = refusal(text=text)
    assert line.startswith("jobs/x.yaml:12: cluster.workers is 4 at 1 CPUs each, ")
    assert "only 2 CPUs" in line
    assert "take 2 workers or fewer" in line


def test_cpus_are_counted_for_every_worker() -> None:
    assert "only 2 CPUs" in refusal("cluster.workers=2", "cluster.cpus_per_worker=1.5")


@pytest.mark.parametrize("workers", ["1", "auto"])
def test_a_worker_larger_than_the_machine_gets_advice_that_helps(workers: str) -> None:
    line = refusal(f"cluster.workers={workers}", "cluster.cpus_per_worker=3")
    assert "cluster.cpus_per_worker" in line
    assert "0 workers" not in line


def test_more_workers_than_gpus_are_refused() -> None:
    line = refusal("cluster.workers=4", resources=Resources(cpus=64, gpus=2))
    assert line.startswith("--set cluster.workers=4: cluster.workers is 4, ")
    assert "only 2 GPUs" in line


def test_a_batch_that_the_automatic_workers_cannot_share_is_refused() -> None:
    line = refusal("recipe.global_batch=50", resources=Resources(cpus=64, gpus=8))
    assert line.startswith("--set recipe.global_batch=50: recipe.global_batch is 50, ")
    assert "48 or 56" in line


def test_a_worker_has_to_fit_one_node() -> None:
    small = Resources(cpus=4, gpus=0, nodes=((1, 0),) * 4)
    line = refusal("cluster.cpus_per_worker=2", "cluster.workers=2", resources=small)
    assert "only 1 CPUs on the largest node" in line
    uneven = Resources(cpus=6, gpus=0, nodes=((3, 0), (3, 0)))
    assert uneven.room(2) == 2
    three = ("cluster.workers=3", "recipe.global_batch=63")
    line = refusal("cluster.cpus_per_worker=2", *three, resources=uneven)
    assert "only 6 CPUs, on 2 nodes: take 2 workers" in line


def test_a_node_without_gpus_has_no_room_where_there_are_any() -> None:
    headed = Resources(cpus=100, gpus=8, nodes=((4, 0), (48, 4), (48, 4)))
    assert (headed.room(1), headed.room(24)) == (8, 4)
    assert checked(resources=headed).batch.workers == 8


def test_a_type_of_gpu_is_one_that_ray_knows_and_needs_gpus() -> None:
    gpus = Resources(cpus=8, gpus=1)
    line = refusal("cluster.accelerator=H10", resources=gpus)
    assert line.startswith("--set cluster.accelerator=H10: cluster.accelerator is 'H10', which is ")
    assert line.endswith("no type that Ray knows; did you mean 'H100'?")
    line = refusal("cluster.accelerator=H100")
    assert line.endswith("cluster.accelerator is 'H100', but there are no GPUs: use null")
    assert checked("cluster.accelerator=H100", resources=gpus).job.cluster.accelerator == "H100"


def test_a_share_of_a_gpu_is_for_one_worker() -> None:
    got = checked("cluster.gpus_per_worker=0.5", resources=Resources(cpus=8, gpus=4))
    assert (got.job.cluster.workers, got.batch.workers) == (1, 1)
