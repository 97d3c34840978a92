"""A run on four nodes of this machine, one of which is lost, replaced and taken away.

    python nodes.py JOB NAME SEEN

First one node is gone without a word, in mid-epoch, and another one joins. Then that one's end is
announced, as a cloud does with preempted machines, and the run saves within an epoch.
Writes to the file SEEN as JSON, one a line, each beginning of training and what else it saw.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import ray
from ray.cluster_utils import Cluster

from ltm_platform import checks
from ltm_platform.events import EpochEnded, Progress, Started
from ltm_platform.job import JobSpec
from ltm_platform.ray_cluster.embedded import ENVIRONMENT
from ltm_platform.ray_cluster.resources import Resources
from ltm_platform.runs.driver import drive
from ltm_platform.storage.checkpoints import stored
from ltm_platform.storage.run_folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from ltm_platform.events import Event

    Story = Generator[None, Event, None]

HASTE = {
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "10",
}
"""Ray finds out sooner than in a cluster, where a node may be slow to answer."""
NOTICE_S = 45
"""Time to save in."""
MOST, FEWEST = 4, 2
MID_EPOCH = 5
"""Steps into an epoch."""


def tell(seen: object) -> None:
    with Path(sys.argv[3]).open("a") as file:
        file.write(json.dumps(seen) + "\n")


def announce_the_end_of(node: str, address: str) -> None:
    command = [
        str(Path(sys.executable).with_name("ray")),
        "drain-node",
        "--address",
        address,
        "--node-id",
        node,
    ]
    command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "a spot node goes"]
    command += ["--deadline-remaining-seconds", str(NOTICE_S)]
    subprocess.run(command, check=True)


def until(happened: Callable[[Event], bool]) -> Generator[None, Event, Event]:
    """Wait for an event."""
    while not happened(event := (yield)):
        pass
    return event


def began(workers: int) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, Started) and event.workers == workers


def until_mid_epoch() -> Story:
    """Of an epoch that comes after a checkpoint."""
    ended = yield from until(lambda event: isinstance(event, EpochEnded))
    assert isinstance(ended, EpochEnded)
    middle = ended.step + MID_EPOCH
    yield from until(lambda event: isinstance(event, Progress) and event.step >= middle)


def story(folder: RunFolder, cluster: Cluster) -> Story:
    """What happens to the nodes, in order."""
    yield from until(began(MOST))
    yield from until_mid_epoch()
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    yield from until(began(MOST - 1))
    new = cluster.add_node(num_cpus=1)
    yield from until(began(MOST))
    yield from until_mid_epoch()
    announce_the_end_of(new.node_id, cluster.address)
    yield from until(lambda _: any(one.top1 is None for one in stored(folder)))
    tell("saved within an epoch")
    os.kill(os.getpid(), signal.SIGINT)
    yield from until(lambda _: False)


def main(path: str, name: str) -> None:
    for key, value in (ENVIRONMENT | HASTE).items():
        os.environ.setdefault(key, value)
    # Its handlers of signals can be set in the main thread alone, which trains.
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1}, shutdown_at_exit=False)
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        for _ in range(MOST - 1):
            cluster.add_node(num_cpus=1)
        workers = f"cluster.workers=[{FEWEST},{MOST}]"
        job = JobSpec.load(path, [workers, "cluster.resize_interval_s=2"])
        checked = checks.check(job, Resources(cpus=MOST, gpus=0))
        folder = RunFolder.reserve(checked.job, name)
        happening = story(folder, cluster)
        next(happening)

        def listener(event: Event) -> None:
            if isinstance(event, Started):
                tell(asdict(event))
            happening.send(event)

        drive(checked, folder, listener)
    except KeyboardInterrupt:
        tell("ended")
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:3])
