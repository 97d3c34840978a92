"""MLflow's own user interface, served on this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ltm_platform.errors import UserError
from ltm_platform.tracking.store import answers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

POLL_S = 0.2


@contextmanager
def serving_ui(uri: str, host: str, port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """MLflow's own server for this store, ready to answer inside the block; it ends with it.

    Raises:
        UserError: the port is taken, or the server did not start.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = error.strerror
            raise UserError(
                f"cannot listen on {host}:{port} ({reason}): take another --port"
            ) from None
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    command += ["--host", host, "--port", str(port)]
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    with (
        log.open("wb") as output,
        # A session of its own: Ctrl-C is ours to pass on.
        subprocess.Popen(
            command, stdout=output, stderr=output, env=environment, start_new_session=True
        ) as server,
    ):
        try:
            while not answers(f"http://{host}:{port}"):
                if server.poll() is not None:
                    raise UserError(f"the MLflow server ended at once: {log} says why")
                time.sleep(POLL_S)
            yield server
        finally:
            server.terminate()
