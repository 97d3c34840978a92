"""A Ray that is there already: joining it, and what it has."""

from __future__ import annotations

import logging
import os
import sys
import uuid
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from ltm_platform.compat.ray_core import PATIENCE, autoscaled_groups, on_loopback
from ltm_platform.errors import UserError
from ltm_platform.ray_cluster import first_contact
from ltm_platform.ray_cluster.auth_token import token_wanted, use_token
from ltm_platform.ray_cluster.embedded import ENVIRONMENT, set_environment
from ltm_platform.ray_cluster.resources import Resources
from ltm_platform.storage.path import storage_path
from ltm_platform.storage.run_folder import storage_root

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from ltm_platform.job import JobSpec

PROBE_S = 60.0
_MOST_NODES = 4096  # of a group without a limit


def join(address: str) -> None:
    """Make this process a driver of the Ray at ``address``.

    Raises:
        UserError: there is none, or it refuses.
    """
    use_token()
    set_environment()
    os.environ.setdefault(*PATIENCE)
    found = first_contact.reach(address)
    here = first_contact.is_here_alone(found)
    import ray
    from ray.exceptions import AuthenticationError

    passed_on = {key: os.environ[key] for key in ENVIRONMENT if key.startswith("RAY_TRAIN_")}
    try:
        with on_loopback() if here else nullcontext():
            # Ray takes no subclass of str.
            ray.init(
                address=str(found),
                runtime_env={"env_vars": passed_on},
                logging_level=logging.WARNING,  # else the first lines of a log are Ray's own
            )
    except AuthenticationError:
        raise token_wanted(address) from None
    except (ConnectionError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"there is no Ray at {found} to join: {reason}") from None


def is_joined() -> bool:
    """Whether this process is a driver of some Ray."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


@contextmanager
def joined_ray() -> Iterator[None]:
    """Leave the Ray that was joined when the block ends, with all that this process has there."""
    import ray

    try:
        yield
    finally:
        ray.shutdown()


def there() -> Resources:
    """The resources of the nodes that are there now."""
    import ray

    nodes = tuple(
        (node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
        for node in ray.nodes()
        if node["Alive"]
    )
    return _sum(nodes)


def free() -> Resources:
    """The part of them that is free."""
    import ray

    left = ray.available_resources()
    return Resources(left.get("CPU", 0.0), left.get("GPU", 0.0))


def at_most() -> Resources:
    """All resources that can be there, with those of nodes that the autoscaler may start."""
    now = there()
    groups: list[tuple[float, float]] = []
    for group in autoscaled_groups():
        count = _MOST_NODES if group.most is None else group.most
        groups += [(group.cpus, group.gpus)] * count
    most = _sum(tuple(groups))
    return most if (most.gpus, most.cpus) > (now.gpus, now.cpus) else now


def _sum(nodes: tuple[tuple[float, float], ...]) -> Resources:
    return Resources(sum(cpus for cpus, _ in nodes), sum(gpus for _, gpus in nodes), nodes)


def check_shared_storage(job: JobSpec) -> int:
    """Check that every node writes into the folder of the runs and sees what this process wrote.

    Returns how many nodes there are.

    Raises:
        UserError: one does not; the sentence names it.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    root = storage_root(job)
    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    mine = root / f".probe-{uuid.uuid4().hex}"
    mine.write(b"")
    try:
        answers = {
            node: ray.remote(probe)
            .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, False))
            .remote(str(root), mine.name, node)
            for node in nodes
        }
        for node, problem in _gathered(answers):
            theirs = root / f"{mine.name}.{node}"
            if problem is None and not theirs.exists():
                problem = "what it writes there is not seen here"
            theirs.delete()
            if problem:
                raise job.error(
                    "cluster.storage",
                    f"cluster.storage is {str(root)!r}, but not for the node {nodes[node]}: "
                    f"{problem}; name a folder that all nodes share, or an object store that all "
                    f"may write to",
                )
    finally:
        mine.delete()
    return len(nodes)


def _gathered(answers: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    import ray

    for node, answer in answers.items():
        try:
            yield node, ray.get(answer, timeout=PROBE_S)
        except ray.exceptions.GetTimeoutError:
            yield node, f"it does not answer for {PROBE_S:.0f} s"
        except ray.exceptions.RayError as error:
            yield node, str(error).splitlines()[0]


def probe(storage: str, known: str, node: str) -> str | None:
    """On a node: what is wrong with ``storage``, in which another node wrote the file ``known``."""
    try:
        root = storage_path(storage)
        if not (root / known).exists():
            return "it is not shared" if root.is_folder() else f"there is no {storage}"
        (root / f"{known}.{node}").write(b"")
    except UserError as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)
    return None
