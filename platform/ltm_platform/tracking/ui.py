"""MLflow's own user interface, served on this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NoReturn

from ltm_platform.compat.mlflow import runs_page_address
from ltm_platform.errors import UserError
from ltm_platform.tracking.store import answers, connect

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import FrameType

POLL_S = 0.2
BEST_FIRST = "val/top1"
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # A second process for the evaluation of language models, which doubles the time to start.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}


@contextmanager
def serving_ui(uri: str, host: str, port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """MLflow's own server for this store, ready to answer inside the block; it ends with it.

    So it does when SIGTERM ends this process, or SIGHUP, as a terminal that is closed sends it.

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
    command = [sys.executable, "-m", "mlflow", "server"]
    command += ["--host", host, "--port", str(port), "--workers", "1"]
    # Not an argument: everyone on the machine sees those, and an address may hold a password.
    environment = os.environ | ENVIRONMENT | {"MLFLOW_BACKEND_STORE_URI": uri}
    with (
        _exit_on(signal.SIGTERM, signal.SIGHUP),
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
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)


def runs_page(uri: str, address: str) -> str | None:
    """Where a server shows the runs that the newest run is among, the best first.

    None for a store without runs.
    """
    client = connect(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    newest = client.search_runs(experiments, max_results=1, order_by=["attributes.start_time DESC"])
    if not newest:
        return None
    return runs_page_address(address, newest[0].info.experiment_id, BEST_FIRST)


@contextmanager
def _exit_on(*signals: signal.Signals) -> Iterator[None]:
    """These signals end the block as an exception does, with the exit code of a shell."""

    def leave(signum: int, _: FrameType | None) -> NoReturn:
        raise SystemExit(128 + signum)

    before = {signum: signal.signal(signum, leave) for signum in signals}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
