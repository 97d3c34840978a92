"""Which Ray a call uses, and what is left of it afterwards."""

from __future__ import annotations

import json
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


LISTENING = """
import json, os, psutil
from ltm_platform.ray_cluster.session import session

with session("local") as found, found.ray():
    import ray

    @ray.remote(num_cpus=0)
    class Worker:
        def pid(self):
            return os.getpid()

    worker = Worker.remote()
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    assert ray.get(worker.pid.remote()) in {process.pid for process in family}
    found = {
        (process.name(), socket.laddr.ip)
        for process in family
        for socket in process.net_connections("inet")
        if socket.status == psutil.CONN_LISTEN
    }
    print(json.dumps(sorted(found)))
"""


@pytest.mark.slow
def test_all_of_it_listens_on_this_machine_alone() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", LISTENING], capture_output=True, text=True, check=True
    )
    found = json.loads(ran.stdout.splitlines()[-1])
    assert {"gcs_server", "raylet"} <= {name for name, _ in found}
    assert {address.removeprefix("::ffff:") for _, address in found} == {"127.0.0.1"}
