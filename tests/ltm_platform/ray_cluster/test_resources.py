"""How many workers there is room for."""

from __future__ import annotations

import pytest

from ltm_platform.ray_cluster.resources import Resources


@pytest.mark.parametrize(
    ("resources", "cpus_per_worker", "room"),
    [
        (Resources(cpus=8, gpus=0), 1, 8),
        (Resources(cpus=8, gpus=0), 3, 2),
        (Resources(cpus=2, gpus=0), 4, 0),
        (Resources(cpus=8, gpus=2), 1, 2),
        (Resources(cpus=3, gpus=4), 2, 1),
        # No worker lies on two nodes, and one without a GPU takes none where there are some.
        (Resources(cpus=6, gpus=0, nodes=((3, 0), (3, 0))), 2, 2),
        (Resources(cpus=20, gpus=2, nodes=((16, 0), (4, 2))), 1, 2),
    ],
)
def test_workers_fit_on_whole_nodes(
    resources: Resources, cpus_per_worker: float, room: int
) -> None:
    assert resources.room(cpus_per_worker) == room


@pytest.mark.parametrize(
    ("resources", "cpus_per_worker", "workers"),
    [
        (Resources(cpus=64, gpus=4), 8, 4),
        (Resources(cpus=64, gpus=0), 1, 2),
        (Resources(cpus=3, gpus=0), 2, 1),
        (Resources(cpus=1, gpus=0), 4, 1),
    ],
)
def test_auto_is_a_worker_for_each_gpu_or_two(
    resources: Resources, cpus_per_worker: float, workers: int
) -> None:
    assert resources.auto_workers(cpus_per_worker) == workers


def test_a_worker_that_shares_its_gpu_is_alone() -> None:
    assert Resources(cpus=64, gpus=4).auto_workers(1, gpus_per_worker=0.5) == 1
    assert Resources(cpus=64, gpus=0).auto_workers(1, gpus_per_worker=0.5) == 2
