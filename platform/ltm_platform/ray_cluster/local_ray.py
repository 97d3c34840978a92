"""A Ray on this machine that outlives the terminal, for several commands to share."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.request import urlopen

import psutil
from filelock import FileLock
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

from ltm_platform.compat.ray_clusters import VERSION_PATH
from ltm_platform.compat.ray_core import LOOPBACK_SETTINGS, START_ATTEMPTS, STARTED_TEXT
from ltm_platform.errors import UserError
from ltm_platform.ray_cluster.auth_token import ensure_token
from ltm_platform.ray_cluster.embedded import ENVIRONMENT
from ltm_platform.storage import locations, permissions

if TYPE_CHECKING:
    from ltm_platform.ray_cluster.resources import Resources

HOST = "127.0.0.1"
DASHBOARD_PORT = 8265
START_S = 120.0
STOP_S = 8.0
POLL_S = 0.2

_log = logging.getLogger(__name__)

_STARTED: list[subprocess.Popen[bytes]] = []
"""By this process, which they outlive: Python warns of a handle that is dropped before."""


@dataclass(frozen=True, slots=True)
class LocalRay:
    """Its main process and its address."""

    address: str
    """The address of its dashboard and Jobs API."""
    pid: int
    created: float
    """When the process started: its pid alone may have been reused."""
    folder: str
    """The folder of Ray's own files."""

    def process(self) -> psutil.Process | None:
        """None: it is gone."""
        try:
            process = psutil.Process(self.pid)
            gone = process.create_time() != self.created
        except psutil.NoSuchProcess:
            return None
        return None if gone or process.status() == psutil.STATUS_ZOMBIE else process


def _record() -> Path:
    return locations.home() / "ray.json"


def running() -> LocalRay | None:
    """The Ray of this user, if it is up."""
    try:
        ray = LocalRay(**json.loads(_record().read_text()))
    except FileNotFoundError:
        return None
    return ray if ray.process() else None


def start(resources: Resources) -> LocalRay:
    """Start it in a session of its own, reachable from this machine alone and with a token.

    Raises:
        UserError: one is up already, or it does not start; the sentence names its log.
    """
    permissions.make_folder(locations.home())
    with FileLock(locations.home() / "ray.lock"):
        if there := running():
            raise UserError(f"Ray is up already on {there.address}")
        for notice in ensure_token():
            _log.warning(notice)
        once_more = Retrying(
            retry=retry_if_exception_type(_EndedError),
            stop=stop_after_attempt(START_ATTEMPTS),
            reraise=True,
        )
        return once_more(_start, resources)


class _EndedError(UserError):
    """It has ended by itself before it was there."""


def _start(resources: Resources) -> LocalRay:
    environment = ENVIRONMENT | dict(LOOPBACK_SETTINGS) | dict(os.environ)
    # A short path: Ray's sockets lie below it.
    folder = tempfile.mkdtemp(prefix="ltm-ray-")
    port, dashboard = _free_port(), _free_port(DASHBOARD_PORT)
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"]
    command += ["--node-ip-address", HOST, "--port", str(port), "--temp-dir", folder]
    command += ["--dashboard-host", HOST, "--dashboard-port", str(dashboard)]
    # Any that is free: another Ray may use the default one, and then no job could start.
    command += ["--dashboard-agent-listen-port", "0"]
    command += ["--num-cpus", str(max(1, int(resources.cpus)))]
    command += ["--num-gpus", str(int(resources.gpus))]
    command += ["--disable-usage-stats"]
    log = locations.home() / "ray.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd=folder,
        )
    _STARTED.append(process)
    created = psutil.Process(process.pid).create_time()
    ray = LocalRay(f"http://{HOST}:{dashboard}", process.pid, created, folder)
    _record().write_text(json.dumps(asdict(ray)))
    deadline = time.monotonic() + START_S
    # The dashboard answers before the node is there, and Ray may still end for want of it.
    while STARTED_TEXT not in log.read_text() or not answers(ray.address):
        ended = process.poll() is not None
        if ended or time.monotonic() > deadline:
            stop(ray)
            raise (_EndedError if ended else UserError)(f"Ray did not start: {log} says why")
        time.sleep(POLL_S)
    return ray


def stop(ray: LocalRay) -> None:
    """End it with all its processes, and with them the runs on it."""
    process = ray.process()
    if process:
        family = [*process.children(recursive=True), process]
        process.send_signal(signal.SIGTERM)
        _, left = psutil.wait_procs(family, timeout=STOP_S)
        for survivor in left:
            try:
                survivor.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(left, timeout=STOP_S)
    shutil.rmtree(ray.folder, ignore_errors=True)
    _record().unlink(missing_ok=True)


def answers(address: str, timeout_s: float = 5.0) -> bool:
    """Whether a Ray dashboard answers, even if it refuses this user."""
    try:
        with urlopen(f"{address}{VERSION_PATH}", timeout=timeout_s):
            return True
    except HTTPError:
        return True
    except (OSError, HTTPException):
        return False


def _free_port(wanted: int = 0) -> int:
    """``wanted`` if it is free, else another."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise UserError(f"there is no free port on {HOST}")
