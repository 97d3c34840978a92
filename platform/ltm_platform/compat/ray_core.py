"""Ray itself: the settings that it reads, the processes that it starts, what it may start."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SETTINGS: Mapping[str, str] = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray's default of 2 s would hold up every report of a run with short epochs.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # Ray's own metrics exporter has no reader here.
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Ray's default niceness of 15 gives training only the CPU time that other programs leave.
    "RAY_worker_niceness": "0",
}
"""Environment variables, read when Ray is imported and inherited by all that it starts.

``ray.init`` has no argument for any of them; its ``_system_config`` is private as well.
"""
START_S = 120
"""Seconds for Ray to start in."""
START_ATTEMPTS = 3
"""At least: the node manager ends itself where its agent takes more than 15 s to start, as on a
busy machine, and ``ray.init`` waits for what is gone."""
STARTED_TEXT = "Ray runtime started"
"""``ray start`` prints it once the node is there."""
PATIENCE = ("RAY_gcs_rpc_server_reconnect_timeout_s", "600")
"""Of a driver: how long after the loss of the GCS Ray ends its process, by default 60 s. A run
needs time to record how it ended."""
EMBEDDED_SETTINGS: Mapping[str, str] = {
    # No cluster takes this machine away: the process that watches for it is not started.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # This Ray has no dashboard: its processes keep no statistics of themselves and no list of
    # tasks. A tenth of their CPU time where all cores train.
    "RAY_event_stats": "0",
    "RAY_task_events_report_interval_ms": "0",
    **dict([PATIENCE]),
    # Ray's 30 s are too short for a busy machine, on which a run may have to start it anew.
    "RAY_raylet_start_wait_time_s": str(START_S),
    # A worker may be asked for while the process that it is forked from still imports.
    "RAY_worker_register_timeout_seconds": str(START_S),
}
"""Besides, for a Ray that one command starts for itself."""

LOOPBACK_SETTINGS: Mapping[str, str] = {
    # Ray has it for systems whose firewall asks: this machine's address is 127.0.0.1 then, and
    # nothing of Ray's listens on another. ``ray.init`` replaces a 127.0.0.1 that it is given.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # So do the workers among themselves.
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
}
"""Besides, where no other machine takes part."""

NODE_MANAGER = "raylet"
"""The process that starts a node's workers, by its name; ``ray.init`` gives no handle to it."""
_NOT_STARTED = "timed out during startup"


def is_startup_timeout(error: BaseException) -> bool:
    """Whether ``ray.init`` gave up waiting for the Ray that it started, as it may after 30 s.

    It raises a plain Exception, so that its text must do.
    """
    return _NOT_STARTED in str(error)


def package_folder() -> Path:
    """Where Ray is installed; it is not imported."""
    spec = find_spec("ray")
    assert spec
    assert spec.origin
    return Path(spec.origin).parent


def session_folder() -> Path:
    """Logs and sockets of the Ray that this process has started, or that has started it."""
    from ray._private import worker

    assert worker._global_node, "this process has no Ray"
    return Path(worker._global_node.get_session_dir_path())


def node_managers() -> list[psutil.Process]:
    """Those that are children of this process."""
    return [child for child in psutil.Process().children() if child.name() == NODE_MANAGER]


@contextmanager
def on_loopback() -> Iterator[None]:
    """A Ray that starts in the block, with all its processes, listens on 127.0.0.1 alone; one that
    does already can be joined."""
    before = {name: os.environ.get(name) for name in LOOPBACK_SETTINGS}
    for name, value in LOOPBACK_SETTINGS.items():
        os.environ.setdefault(name, value)
    _read_again()
    try:
        yield
    finally:
        for name, old in before.items():
            if old is None:
                os.environ.pop(name, None)
        _read_again()


def is_on_loopback() -> bool:
    """Whether the Ray that has started this process listens on 127.0.0.1 alone."""
    return all(os.environ.get(name) == value for name, value in LOOPBACK_SETTINGS.items())


def address_of_auto() -> str:
    """The ``HOST:PORT`` of the Ray that ``auto`` stands for on this machine.

    Raises:
        ConnectionError: there is none.
    """
    from ray._private import services

    return str(services.get_ray_address_from_environment("auto", None))


def _read_again() -> None:
    """Ray reads the switch once, when it is imported."""
    if constants := sys.modules.get("ray._private.ray_constants"):
        switch = constants.ENABLE_RAY_CLUSTERS_ENV_VAR
        vars(constants)["ENABLE_RAY_CLUSTER"] = constants.env_bool(switch, True)


@dataclass(frozen=True, slots=True)
class NodeGroup:
    """Nodes of one kind that the autoscaler may start."""

    cpus: float
    gpus: float
    most: int | None
    """None: without a limit."""


def autoscaled_groups() -> list[NodeGroup]:
    """The kinds of nodes that the autoscaler may start; none where there is no autoscaler.

    Ray's public functions report the nodes that are there and requests for more.
    """
    from ray._private.state import state

    config = state.get_cluster_config()
    return [] if config is None else [_group(one) for one in config.node_group_configs]


def _group(config: Any) -> NodeGroup:
    """Of the autoscaler's message ``NodeGroupConfig``."""
    resources = config.resources
    most = None if config.max_count < 0 else int(config.max_count)
    return NodeGroup(resources.get("CPU", 0.0), resources.get("GPU", 0.0), most)


def remove_reservation(identity: str) -> None:
    """Remove a placement group by the hexadecimal form of its id.

    The public function takes the object that made it, which ends with its process.
    """
    import ray
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(identity))))


def unwrapped(error: BaseException) -> BaseException:
    """The exception that was raised in a task, without Ray's around it and its traceback.

    Ray documents that an error of a task is of both types, not how to get at the original.
    """
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, BaseException) else error
