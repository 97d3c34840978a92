"""One Ray for all trainings of a program, which `ltm_platform.api` then uses."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import ray

from ltm_platform.ray_cluster.embedded import ENVIRONMENT
from ltm_platform.ray_cluster.forked_workers import RANKS, fork_server, used

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def own_ray(home: Path) -> Iterator[None]:
    """In the block Ray runs, and runs are kept in a folder of the program's own."""
    os.environ["LTM_PLATFORM_HOME"] = str(home)
    os.environ["RAY_AUTH_MODE"] = "disabled"  # Ray would write a token into the user's home
    with fork_server(RANKS, ENVIRONMENT):
        with used():
            ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        try:
            yield
        finally:
            ray.shutdown()
