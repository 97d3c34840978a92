"""`ltm-platform`, and programs like it, in processes forked from one that has imported what they
need, which takes most of them longer than their work.

Each is a process of its own to its very end, as one that was started; only what it finds imported
is not of its own doing.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

import psutil

ROOT = Path(__file__).parents[2]

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


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

    def run(
        self, words: Sequence[str], folder: Path, timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        """A Python program and its arguments to its end, in a folder.

        Raises:
            subprocess.TimeoutExpired: it has been killed.
        """
        told, its = socket.socketpair()
        with told, TemporaryFile() as out, TemporaryFile() as err:
            with its:
                request = json.dumps({"words": [*words], "folder": str(folder)}).encode()
                files = [its.fileno(), out.fileno(), err.fileno()]
                socket.send_fds(self._requests, [request], files)
            pid = int(_line(told))
            told.settimeout(timeout_s)
            try:
                code = int(_line(told))
            except TimeoutError:
                _kill(pid)
                raise subprocess.TimeoutExpired([*words], timeout_s) from None
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode())
            return subprocess.CompletedProcess([*words], code, *texts)

    def close(self) -> None:
        """End the process that forks; what it has forked goes on."""
        self._requests.close()
        self._server.wait()


def _kill(pid: int) -> None:
    """A command and all that it has started."""
    with suppress(psutil.NoSuchProcess):
        command = psutil.Process(pid)
        for process in (command, *command.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                process.kill()


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
        return list(asked["words"])


def _serve() -> None:
    sys.path[0] = str(ROOT)
    from benchmarks.campaign.one_process import load

    load()
    assert threading.active_count() == 1, "a forked process has no threads but its first"
    gc.freeze()  # a collection in a forked process would copy the memory of all that is imported
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait
    words = _asked(socket.socket(fileno=int(sys.argv[1])))
    if words is not None:
        sys.argv[:], sys.path[0] = words, str(Path(words[0]).parent)
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    _serve()
