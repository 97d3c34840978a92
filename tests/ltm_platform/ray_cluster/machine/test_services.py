"""A part of Ray that has ended is noticed at once, not when Ray gives up."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from ltm_platform.ray_cluster.failures import RayLostError
from ltm_platform.ray_cluster.machine import services
from ltm_platform.ray_cluster.machine.services import Service, Services, WatchedQueue

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def ended() -> list[str]:
    """What was done about the loss."""
    return []


@pytest.fixture
def watched(listening: socket.socket, ended: list[str]) -> Services:
    part = Service("control service (GCS)", *listening.getsockname())
    return Services((part,), lambda: ended.append("workers"))


def test_a_service_that_accepts_connections_is_there(watched: Services, ended: list[str]) -> None:
    watched.check()
    watched.check_now()
    assert not ended


def test_one_that_has_just_gone_may_come_back(watched: Services, listening: socket.socket) -> None:
    listening.close()
    watched.check()


def test_one_that_stays_away_is_named_with_its_address(
    watched: Services,
    listening: socket.socket,
    ended: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, port = listening.getsockname()
    listening.close()
    monkeypatch.setattr(services, "LOST_AFTER_S", 0.0)
    for look in (watched.check, watched.check_now):
        with pytest.raises(RayLostError, match=rf"Ray's control service \(GCS\) at .*:{port} has"):
            look()
    assert ended == ["workers"] * 2


@pytest.mark.usefixtures("ray_session")
def test_rays_own_are_found_and_a_queue_waits_no_longer_than_they_live(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ray.util.queue import Queue

    here = Services.here()
    assert [part.name.split()[-1] for part in here.parts] == ["(GCS)", "(raylet)"]
    here.check()
    queue = Queue(actor_options={"num_cpus": 0})
    watched = WatchedQueue(queue, here)
    watched.put_nowait("one")
    assert watched.get() == "one"

    with socket.create_server(("127.0.0.1", 0)) as closed:
        gone = Service("node manager (raylet)", *closed.getsockname())
    monkeypatch.setattr(services, "LOST_AFTER_S", 0.0)
    with pytest.raises(RayLostError):
        WatchedQueue(queue, Services((gone,), lambda: None)).get()
    queue.shutdown(force=True)
