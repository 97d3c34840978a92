"""The first contact with a Ray that is there already: short, where Ray itself waits for minutes."""

from __future__ import annotations

import ipaddress
import os
import socket

import psutil

from ltm_platform.compat.ray_core import address_of_auto
from ltm_platform.errors import UserError
from ltm_platform.ray_cluster import local_ray
from ltm_platform.ray_cluster.address import EMBEDDED, JOINED, Address

CONTACT_S = 15.0


def reach(address: str) -> str:
    """The ``HOST:PORT`` of a Ray to join, once something that speaks its protocol answers there.

    Raises:
        UserError: nothing does within `CONTACT_S`.
    """
    found = address
    if address == JOINED:
        try:
            found = address_of_auto()
        except ConnectionError:
            raise UserError(
                f"there is no Ray on this machine to join ({_asked(address)}): start one "
                f"(ltm-platform cluster up --local), or give --address {EMBEDDED}"
            ) from None
    host, port = _host_port(found)
    try:
        socket.create_connection((host, port), timeout=CONTACT_S).close()
    except OSError as error:
        raise _no_answer(address, found, str(error.strerror or error)) from None
    # With certificates, Ray has its own settings of who is to be believed.
    if os.environ.get("RAY_USE_TLS", "0") in ("0", "false") and not _speaks_grpc(found):
        raise _no_answer(address, found, "what listens there is no Ray")
    return found


def reach_dashboard(address: str) -> None:
    """Raises: UserError: no Ray dashboard answers within `CONTACT_S`."""
    if not local_ray.answers(address, CONTACT_S):
        raise UserError(
            f"no Ray cluster answers at {address} ({_asked(address)}): is it up (ltm-platform "
            f"cluster status), is that the address of its dashboard, and is the tunnel to it open? "
            f"--address {EMBEDDED} runs here instead"
        )


def is_here_alone(host_port: str) -> bool:
    """Whether the Ray there listens on 127.0.0.1 and on no other address of this machine."""
    host, port = _host_port(host_port)
    listeners = {
        connection.laddr.ip
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
        and connection.laddr
        and connection.laddr.port == port
    }
    return _is_loopback(host) and bool(listeners) and all(map(_is_loopback, listeners))


def _is_loopback(host: str) -> bool:
    try:
        found = ipaddress.ip_address(host.removeprefix("::ffff:"))
    except ValueError:
        return host == "localhost"
    return found.is_loopback


def _host_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _speaks_grpc(address: str) -> bool:
    import grpc

    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=CONTACT_S)
        except grpc.FutureTimeoutError:
            return False
    return True


def _no_answer(address: str, found: str, reason: str) -> UserError:
    return UserError(
        f"no Ray answers at {found} ({_asked(address)}): {reason}; start it, or give "
        f"--address {EMBEDDED} for a Ray of this command's own"
    )


def _asked(address: str) -> str:
    """Where an address came from."""
    return address.source if isinstance(address, Address) else "as recorded with the run"
