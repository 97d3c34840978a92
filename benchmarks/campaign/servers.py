"""A tracking server of a run's own, which is killed or held and comes back."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from ltm_platform.tracking.store import answers
from ltm_platform.tracking.ui import ENVIRONMENT

if TYPE_CHECKING:
    from pathlib import Path

START_S = 300.0
POLL_S = 0.2


class TrackingServer:
    """MLflow's server for the database of a home, at one address however often it starts."""

    def __init__(self, home: Path) -> None:
        self._home = home
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Until it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
        command += ["--port", str(self._port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self._home / 'mlflow.db'}"]
        command += ["--artifacts-destination", str(self._home / "served")]
        with (self._home / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env=os.environ | ENVIRONMENT,
                stdout=log,
                stderr=log,
                cwd=self._home,
                start_new_session=True,
            )
        end = time.monotonic() + START_S
        while not answers(self.address):
            assert self._process.poll() is None, "the tracking server ended"
            assert time.monotonic() < end, "the tracking server does not start"
            time.sleep(POLL_S)

    def hit(self, how: signal.Signals, away_s: float) -> None:
        """Kill it and start it again, or hold it, for ``away_s`` seconds."""
        self._signal(how)
        if how == signal.SIGKILL:
            assert self._process
            self._process.wait()
        time.sleep(away_s)
        if how == signal.SIGKILL:
            self.start()
        else:
            self._signal(signal.SIGCONT)

    def close(self) -> None:
        """End it."""
        if self._process and self._process.poll() is None:
            self._signal(signal.SIGKILL)
            self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process
        os.killpg(self._process.pid, number)
