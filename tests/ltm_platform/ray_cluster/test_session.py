"""Which Ray a call uses, and what is left of it afterwards."""

from __future__ import annotations

import subprocess
import sys

import pytest
import ray

from ltm_platform.ray_cluster.address import EMBEDDED
from ltm_platform.ray_cluster.session import session

BEFORE_RAY = """
import ray
from ltm_platform.ray_cluster.address import EMBEDDED
from ltm_platform.ray_cluster.session import session
with session(EMBEDDED) as found:
    print(found.joined, found.stays, found.resources.cpus >= 1, ray.is_initialized())
"""


@pytest.mark.usefixtures("ray_session")
def test_the_callers_ray_is_used_and_stays() -> None:
    with session(EMBEDDED) as found, found.ray():
        assert (found.joined, found.stays) == (True, True)
        assert found.resources.cpus == 2
    assert ray.is_initialized()


def test_none_starts_before_it_is_needed() -> None:
    found = subprocess.run(
        [sys.executable, "-c", BEFORE_RAY], stdout=subprocess.PIPE, text=True, check=True
    )
    assert found.stdout.split() == ["False", "False", "True", "False"]
