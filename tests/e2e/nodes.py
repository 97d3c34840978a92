"""A run on two nodes of this machine, one of which goes, comes back and is lost.

    python nodes.py JOB NAME SEEN

First the end of the second node is announced, as a cloud does with preempted machines, and it ends
once the run has saved within an epoch. Then another one joins; that one is gone without a word.
Writes to the file SEEN as JSON, one a line, each beginning of training and what else it saw.
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
from ltm_platform.events import Progress, Started
from ltm_platform.job import JobSpec
from ltm_platform.launch.driver import drive
from ltm_platform.launch.embedded import ENVIRONMENT
from ltm_platform.launch.folder import RunFolder
from ltm_platform.launch.history import stored

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from ltm_platform.events import Event

    Story = Generator[None, Event, None]

HASTE = {
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}
"""Ray finds out sooner than in a cluster, where a node may be slow to answer."""
PREEMPTED = 2  # ray's DrainNodeReason
NOTICE_S = 45.0
"""Time to save in; Ray goes on with fewer only when it is over."""


def tell(seen: object) -> None:
    with Path(sys.argv[3]).open("a") as file:
        file.write(json.dumps(seen) + "\n")


class Node:
    """A second node of one CPU, a process group of its own."""

    def __init__(self, address: str) -> None:
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block"]
        command += ["--address", address, "--num-cpus", "1"]
        self._address = address
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)

    def announce_its_end(self) -> None:
        head = ray.get_runtime_context().get_node_id()
        (node,) = (n["NodeID"] for n in ray.nodes() if n["Alive"] and n["NodeID"] != head)
        deadline_ms = int(1000 * (time.time() + NOTICE_S))
        accepted, reason = GcsClient(address=self._address).drain_node(
            node, PREEMPTED, "a spot node goes", deadline_ms
        )
        assert accepted, reason

    def end(self) -> None:
        """All of it at once, if it has not ended."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def until(happened: Callable[[Event], bool]) -> Story:
    """Wait for an event."""
    while not happened((yield)):
        pass


def began(workers: int) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, Started) and event.workers == workers


def passed(step: int) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, Progress) and event.step > step


def story(folder: RunFolder, address: str) -> Story:
    """What happens to the second node, in order."""
    node = Node(address)
    try:
        yield from until(passed(12))
        node.announce_its_end()
        yield from until(lambda _: any(one.top1 is None for one in stored(folder)))
        tell("saved within an epoch")
        node.end()
        yield from until(began(1))
        node = Node(address)
        yield from until(began(2))
        last = stored(folder)[-1]
        yield from until(lambda _: stored(folder)[-1] != last)
        node.end()
        yield from until(began(1))
        os.kill(os.getpid(), signal.SIGINT)
        yield from until(lambda _: False)
    finally:
        node.end()


def main(path: str, name: str) -> None:
    for key, value in (ENVIRONMENT | HASTE).items():
        os.environ.setdefault(key, value)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    ray.init(address=cluster.address, log_to_driver=False)
    job = JobSpec.load(path, ["cluster.workers=[1,2]", "cluster.resize_interval_s=2"])
    ready = preflight.check(job, preflight.Resources(cpus=2, gpus=0))
    folder = RunFolder.reserve(ready.job, name)
    happening = story(folder, cluster.address)
    next(happening)

    def listener(event: Event) -> None:
        if isinstance(event, Started):
            tell(asdict(event))
        happening.send(event)

    wait_for_condition(lambda: ray.cluster_resources().get("CPU") == 2, timeout=60)
    try:
        drive(ready, folder, listener)
    except KeyboardInterrupt:
        tell("ended")
    finally:
        happening.close()
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:3])
