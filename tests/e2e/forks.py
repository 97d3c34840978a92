"""`ltm-platform`, and programs like it, in processes forked from one that has imported what they
need, which takes most of them longer than their work.

Each is a process of its own to its very end, as one that was started; only what it finds imported
is not of its own doing.
"""

from __future__ import annotations

import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

ROOT = Path(__file__).parents[2]
CLI = str(Path(sys.executable).with_name("ltm-platform"))

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Forked:
    """A process, as one of `subprocess.Popen` is."""

    def __init__(self, words: Sequence[str], told: socket.socket) -> None:
        self._words, self._told = [*words], told
        self._code: int | None = None
        self.pid = int(_line(told))

    def poll(self) -> int | None:
        """The exit code, or None."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self._code

    def wait(self, timeout_s: float) -> int:
        """The exit code.

        Raises:
            subprocess.TimeoutExpired: it goes on.
        """
        if self._code is None:
            if not select.select([self._told], [], [], timeout_s)[0]:
                raise subprocess.TimeoutExpired(self._words, timeout_s)
            self._code = int(_line(self._told))
            self._told.close()
        return self._code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Forks:
    """Programs with one environment."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._requests, theirs = socket.socketpair()
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                env=environment,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def start(
        self, words: Sequence[str], folder: Path, out: int, err: int, *, group: bool
    ) -> Forked:
        """A Python program and its arguments, in a folder, printing to two open files; with a
        process ``group`` of its own, as a terminal gives it, or in that of all that are forked."""
        told, its = socket.socketpair()
        with its:
            request = {"words": [*words], "folder": str(folder), "group": group}
            files = [its.fileno(), out, err]
            socket.send_fds(self._requests, [json.dumps(request).encode()], files)
        return Forked(words, told)

    def run(
        self, words: Sequence[str], folder: Path, timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        """To its end.

        Raises:
            subprocess.TimeoutExpired: it has been killed.
        """
        with TemporaryFile() as out, TemporaryFile() as err:
            process = self.start(words, folder, out.fileno(), err.fileno(), group=False)
            try:
                code = process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(timeout_s)
                raise
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode())
            return subprocess.CompletedProcess([*words], code, *texts)

    def close(self) -> None:
        """End the process that forks; what it has forked goes on."""
        self._requests.close()
        self._server.wait()


def _line(told: socket.socket) -> str:
    """The next one, byte by byte: what comes after it may be there already."""
    line = b""
    while not line.endswith(b"\n"):
        byte = told.recv(1)
        assert byte, "the process that forks has ended"
        line += byte
    return line.decode()


def _asked(requests: socket.socket) -> list[str] | None:
    """In a process that has just been forked, its program and arguments; None once nobody is there
    to ask for another."""
    while True:
        message, files, _, _ = socket.recv_fds(requests, 1 << 20, 3)
        if not message:
            return None
        # One that waits for it and tells how it ends, beside which the next one can be asked for.
        if os.fork():
            for file in files:
                os.close(file)
            continue
        requests.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        told, out, err = files
        if pid := os.fork():
            with suppress(BrokenPipeError):
                os.write(told, f"{pid}\n".encode())
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                os.write(told, f"{code}\n".encode())
            os._exit(0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        for file in files:
            os.close(file)
        asked = json.loads(message)
        os.chdir(asked["folder"])
        if asked["group"]:
            os.setsid()
        return list(asked["words"])


def _serve() -> None:
    sys.path[0] = str(ROOT)
    from benchmarks.campaign.one_process import load

    load()
    assert threading.active_count() == 1, "a forked process has no threads but its first"
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait
    words = _asked(socket.socket(fileno=int(sys.argv[1])))
    if words is not None:
        sys.argv[:], sys.path[0] = words, str(Path(words[0]).parent)
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    _serve()
