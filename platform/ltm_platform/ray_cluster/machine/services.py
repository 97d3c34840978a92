"""Whether the parts of Ray that every call to it needs are still there."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ltm_platform.compat.ray_trainer import POLL_S, awaited
from ltm_platform.ray_cluster.failures import RayLostError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ray.util.queue import Queue

LOST_AFTER_S = 5.0
"""A service that accepts no connection for so long has ended; one that restarts is back before."""
CONNECT_S = 2.0


@dataclass(slots=True)
class Service:
    """A process of Ray's and its port."""

    name: str
    host: str
    port: int
    _answered: float = field(default_factory=time.monotonic)

    def answers(self) -> bool:
        """Whether it accepts a connection."""
        try:
            with socket.create_connection((self.host, self.port), timeout=CONNECT_S):
                self._answered = time.monotonic()
        except OSError:
            return False
        return True

    @property
    def is_lost(self) -> bool:
        return not self.answers() and time.monotonic() - self._answered > LOST_AFTER_S


@dataclass(frozen=True, slots=True)
class Services:
    """The cluster's control service (GCS) and this node's raylet.

    Ray itself notices the loss of its GCS after a minute, and then ends every process that is
    connected to it, also the driver of a run.
    """

    parts: tuple[Service, ...]
    on_loss: Callable[[], None]

    @classmethod
    def here(cls, on_loss: Callable[[], None] = lambda: None) -> Services:
        """Those of the Ray that this process is connected to."""
        import ray

        context = ray.get_runtime_context()
        host, _, port = context.gcs_address.rpartition(":")
        parts = [Service("control service (GCS)", host.strip("[]"), int(port))]
        for node in ray.nodes():
            if node["NodeID"] == context.get_node_id():
                address = node["NodeManagerAddress"]
                parts.append(Service("node manager (raylet)", address, node["NodeManagerPort"]))
        return cls(tuple(parts), on_loss)

    def check(self) -> None:
        """Raises: RayLostError: one of them has ended."""
        for part in self.parts:
            if part.is_lost:
                self.on_loss()
                raise RayLostError(
                    f"Ray's {part.name} at {part.host}:{part.port} has ended: it accepts no "
                    f"connections any more"
                )

    def check_now(self) -> None:
        """The same, when another process of Ray's has ended, perhaps because of one of these."""
        while not all(part.answers() for part in self.parts):
            self.check()
            time.sleep(POLL_S)


class WatchedQueue:
    """Ray's queue for the process that listens to it, which it does not block if Ray is lost."""

    def __init__(self, queue: Queue, services: Services) -> None:
        self._actor: Any = queue.actor
        self._services = services

    def get(self) -> Any:
        """Waits for the next."""
        return awaited(self._actor.get.remote(), self._services.check)

    def put_nowait(self, item: Any) -> None:
        awaited(self._actor.put_nowait.remote(item), self._services.check)
