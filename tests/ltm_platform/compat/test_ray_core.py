from __future__ import annotations

import importlib.util
import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray
from ray._common.usage.usage_constants import USAGE_STATS_ENABLED_ENV_VAR
from ray._private import ray_constants, services, worker
from ray._private.accelerators import accelerator
from ray._private.node import Node
from ray._private.state import state
from ray.core.generated import autoscaler_pb2
from ray.exceptions import RayTaskError
from ray.train.v2._internal import constants as train_constants
from ray.util.placement_group import PlacementGroup

from ltm_platform.compat import ray_core
from ltm_platform.compat.ray_core import EMBEDDED_SETTINGS, SETTINGS, NodeGroup

SETTINGS_OF_PYTHON = {
    USAGE_STATS_ENABLED_ENV_VAR,
    train_constants.HEALTH_CHECK_INTERVAL_S_ENV_VAR,
    train_constants.METRICS_ENABLED_ENV_VAR,
    train_constants.ENABLE_PREEMPTION_WATCHER_ENV_VAR,
    accelerator.RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO_ENV_VAR,
}


@pytest.fixture(scope="module")
def node_manager() -> mmap.mmap:
    """The program, in which the settings of Ray's core are text."""
    with Path(services.RAYLET_EXECUTABLE).open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


@pytest.mark.parametrize("name", sorted([*SETTINGS, *EMBEDDED_SETTINGS]))
def test_ray_reads_the_setting(name: str, node_manager: mmap.mmap) -> None:
    assert name in SETTINGS_OF_PYTHON or node_manager.find(name.encode()) >= 0


def test_this_machine_is_127_0_0_1_in_the_block_alone() -> None:
    assert ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR in ray_core.LOOPBACK_SETTINGS
    assert ray_constants.ENABLE_RAY_CLUSTER
    with ray_core.on_loopback():
        assert not ray_constants.ENABLE_RAY_CLUSTER
        if not ray.is_initialized():
            assert services.get_node_ip_address() == "127.0.0.1"
        assert os.environ["GLOO_SOCKET_IFNAME"] == "lo"
    assert ray_constants.ENABLE_RAY_CLUSTER
    assert "GLOO_SOCKET_IFNAME" not in os.environ


def test_the_node_manager_is_found_by_its_name() -> None:
    assert Path(services.RAYLET_EXECUTABLE).name == ray_core.NODE_MANAGER
    assert ray_constants.PROCESS_TYPE_RAYLET == ray_core.NODE_MANAGER


def test_a_process_without_ray_has_no_node_manager() -> None:
    program = "from ltm_platform.compat import ray_core; print(ray_core.node_managers())"
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "[]"


def test_a_ray_that_did_not_start_says_so() -> None:
    spec = importlib.util.find_spec("ray._private.node")
    assert spec
    assert spec.origin
    text = "The current node timed out during startup."
    assert text in Path(spec.origin).read_text()
    assert ray_core.is_startup_timeout(Exception(text))
    assert not ray_core.is_startup_timeout(Exception("no room on the disk"))


def test_a_ray_that_has_started_says_so() -> None:
    spec = importlib.util.find_spec("ray.scripts.scripts")
    assert spec
    assert spec.origin
    assert f'"{ray_core.STARTED_TEXT}.' in Path(spec.origin).read_text()


def test_groups_of_nodes_are_read_off_the_autoscalers_message() -> None:
    assert callable(state.get_cluster_config)
    config = autoscaler_pb2.ClusterConfig()
    config.node_group_configs.add(name="gpu", max_count=3).resources.update({"CPU": 8, "GPU": 1})
    config.node_group_configs.add(name="cpu", max_count=-1).resources.update({"CPU": 4})
    groups = [ray_core._group(one) for one in config.node_group_configs]
    assert groups == [NodeGroup(8, 1, 3), NodeGroup(4, 0, None)]


def test_a_placement_group_is_its_id() -> None:
    identity = ray.PlacementGroupID.from_random()
    again = PlacementGroup(ray.PlacementGroupID(bytes.fromhex(identity.hex())))
    assert again.id == identity


def test_an_error_of_a_task_is_unwrapped() -> None:
    error = RayTaskError("task", "a long traceback", ValueError("too large"))
    for one in (error, error.as_instanceof_cause()):
        cause = ray_core.unwrapped(one)
        assert (type(cause), str(cause)) == (ValueError, "too large")
    own = KeyError("x")
    assert ray_core.unwrapped(own) is own


def test_the_folder_of_a_ray_is_found() -> None:
    assert callable(Node.get_session_dir_path)
    assert "_global_node" in vars(worker)
