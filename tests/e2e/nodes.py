"""A run on two nodes of this machine, one of which goes and comes back.

    python nodes.py JOB NAME lose|drain

``lose`` takes the second node away without a word, and adds another later; ``drain`` announces the
end of the node, as a cloud does with preempted machines, and ends it once the run has saved within
an epoch. XX
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import ray
from ray._common.test_utils import wait_for_condition
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster

from ltm_platform import preflight
from ltm_platform.events import Started
from ltm_platform.job import JobSpec
from ltm_platform.launch.driver import drive
from ltm_platform.launch.embedded import ENVIRONMENT
from ltm_platform.launch.folder import RunFolder
from ltm_platform.launch.history import stored

if TYPE_CHECKING:
    from ltm_platform.events import Event

START_TIMEOUT = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20"}
"""Ray's minute is long when a node that is gone still counts for some seconds."""
PREEMPTED = 2  # ray's DrainNodeReason
NOTICE_S = 600.0
FAR = 10**12


def tell(seen: object) -> None:
    print(json.dumps(seen), flush=True)


class Saboteur:
    """Listens to the run, and hits it at given steps."""

    def __init__(self, cluster: Cluster, folder: RunFolder, task: str) -> None:
        self._cluster = cluster
        self._folder = folder
        self._task = task
        self._draining = False
        self._second = self._start_node()
        self._strike_at = 13

    def __call__(self, event: Event) -> None:
        if isinstance(event, Started):
            tell(asdict(event))
            self._began(event)
        elif hasattr(event, "step"):
            self._stepped(event.step)

    def _began(self, event: Started) -> None:
        if event.workers == 1:
            if self._task == "drain":
                self._end()
            self._second = self._start_node()
        elif event.steps_done:
            self._end()

    def _stepped(self, step: int) -> None:
        if step >= self._strike_at:
            self._strike_at = FAR
            if self._task == "drain":
                self._drain()
                self._draining = True
            else:
                self.close()
        if self._draining and any(one.top1 is None for one in stored(self._folder)):
            self._draining = False
            tell("saved within an epoch")
            self.close()

    def _start_node(self) -> subprocess.Popen[bytes]:
        """A node of one CPU, a process group of its own."""
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block"]
        command += ["--address", self._cluster.address, "--num-cpus", "1"]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)

    def close(self) -> None:
        """The second node ends, all of it at once."""
        os.killpg(self._second.pid, signal.SIGKILL)
        self._second.wait()

    def _drain(self) -> None:
        head = ray.get_runtime_context().get_node_id()
        (node,) = (n["NodeID"] for n in ray.nodes() if n["Alive"] and n["NodeID"] != head)
        client = GcsClient(address=self._cluster.address)
        deadline_ms = int(1000 * (time.time() + NOTICE_S))
        accepted, reason = client.drain_node(node, PREEMPTED, "a spot node goes", deadline_ms)
        assert accepted, reason

    def _end(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)


def main(path: str, name: str, task: str) -> None:
    for key, value in (ENVIRONMENT | START_TIMEOUT).items():
        os.environ.setdefault(key, value)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    ray.init(address=cluster.address)
    job = JobSpec.load(path, ["cluster.workers=[1,2]", "cluster.resize_interval_s=2"])
    ready = preflight.check(job, preflight.Resources(cpus=2, gpus=0))
    folder = RunFolder.reserve(ready.job, name)
    saboteur = Saboteur(cluster, folder, task)
    wait_for_condition(lambda: ray.cluster_resources().get("CPU") == 2, timeout=60)
    try:
        drive(ready, folder, saboteur)
    except KeyboardInterrupt:
        tell("ended")
    finally:
        saboteur.close()
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
