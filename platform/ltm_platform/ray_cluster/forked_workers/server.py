"""The fork server's own process: imports PyTorch and its like, then forks Ray's workers.

Ray itself must be imported anew for each node manager, whose process id its core keeps from then
on: so this process forks one for each node manager, which imports Ray and forks the workers.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import random
import select
import shutil
import signal
import socket
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, NamedTuple

from ltm_platform.compat import ray_workers
from ltm_platform.ray_cluster.forked_workers.client import OOM_SCORE, TAKEN

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Become = Callable[[], None]
    """What a process does once it has been forked."""

LIFELINE = 0
"""Closed as soon as the process that started this one has ended."""
_MOST = 1 << 20  # bytes of a request
_PR_SET_PDEATHSIG = 1  # of Linux's prctl.h


class Request(NamedTuple):
    """A client's: what its worker is to be like."""

    text: bytes
    files: list[int]
    """The client, by which it is answered, and the worker's standard files."""

    @property
    def said(self) -> dict[str, Any]:
        return dict(json.loads(self.text))

    def close(self) -> None:
        for file in self.files:
            os.close(file)


def main() -> None:
    """Arguments: the descriptor of the socket that listens, and what to import."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    # An import that asks how many GPUs there are must not begin CUDA, which no fork would survive.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    for name in sys.argv[2:]:
        found = resolve_name(name)
        if ":" in name:
            found()
    if _cuda_has_begun():
        return
    # Threads that imports start (OpenBLAS's, Arrow's) are idle, and their libraries survive a fork.
    warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
    gc.freeze()  # a collection in a forked process would copy the memory of all that is imported
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # what has ended is not waited for
    if become := _serve(listener):
        become()
    else:  # who started this one may have been killed
        shutil.rmtree(_folder(listener), ignore_errors=True)


def _serve(listener: socket.socket) -> Become | None:
    """Hand requests to a process for each node manager; None once nobody is there to ask."""
    nodes: dict[str, socket.socket] = {}
    while LIFELINE not in (ready := _ready(listener.fileno(), LIFELINE)):
        assert ready
        client, _ = listener.accept()
        with client:
            request = _received(client)
        if request is None:
            continue
        environment = request.said["environment"]
        manager = environment[ray_workers.MANAGER_VARIABLE]
        if manager not in nodes:
            nodes[manager], theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            if (process := os.fork()) == 0:
                request.close()
                for file in (listener, *nodes.values()):
                    file.close()
                return lambda: _node(theirs, int(manager), environment)
            theirs.close()
            (_folder(listener) / manager).write_text(str(process))
        with suppress(OSError):  # its node manager has ended
            socket.send_fds(nodes[manager], [request.text], request.files)
        request.close()
    return None


def _received(client: socket.socket) -> Request | None:
    """None from a client that has been killed."""
    with suppress(ConnectionError):
        text, files, _, _ = socket.recv_fds(client, _MOST, 3)
        if text:
            return Request(text, [os.dup(client.fileno()), *files])
    return None


def _folder(listener: socket.socket) -> Path:
    return Path(listener.getsockname()).parent


def _node(requests: socket.socket, manager: int, environment: dict[str, str]) -> None:
    """Fork the workers of a node manager as long as it runs."""
    os.environ.update({key: value for key, value in environment.items() if key.startswith("RAY_")})
    with suppress(ProcessLookupError):
        ended = os.pidfd_open(manager)
        ray_workers.import_ray()
        gc.freeze()
        if become := _forked(requests, ended):
            become()


def _forked(requests: socket.socket, ended: int) -> Become | None:
    while ended not in _ready(requests.fileno(), ended):
        text, files, _, _ = socket.recv_fds(requests, _MOST, 4)
        if not text:
            return None
        request = Request(text, files)
        if os.fork() == 0:
            requests.close()
            os.close(ended)
            return lambda: _worker(request)
        request.close()
    return None


def _ready(*files: int) -> Sequence[int]:
    return select.select(files, [], [])[0]


def _worker(request: Request) -> None:
    """Be the worker that was asked for, or leave it to Ray's own program."""
    said = request.said
    parsed = ray_workers.parsed(said["words"])
    if parsed is None:
        return
    context, words = parsed
    os.setpgid(0, 0)  # the node manager kills the whole group of a worker that has ended
    # Whatever holds it up, it does not outlive its node manager.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.environ.clear()
    os.environ.update(said["environment"] | context.env_vars)
    os.chdir(said["folder"])
    with suppress(PermissionError):
        Path(OOM_SCORE).write_text(said["oom_score"])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _draw_anew()
    client, *files = request.files
    for number, file in enumerate(files):
        os.dup2(file, number)
    os.write(client, TAKEN)
    request.close()
    ray_workers.work(words)


def _cuda_has_begun() -> bool:
    """Whether an import has begun to use the GPUs that are there: then a forked process cannot."""
    torch = sys.modules.get("torch")
    if torch is None or torch.cuda.device_count() == 0:
        return False
    if (process := os.fork()) == 0:
        os._exit(torch.cuda._is_in_bad_fork())
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) != 0


def _draw_anew() -> None:
    """No two workers draw the same random numbers, as those that are started do not."""
    random.seed()
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()


if __name__ == "__main__":
    main()
