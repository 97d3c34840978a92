"""Workers of a Ray on this machine, forked from a process that has imported what they need.

Importing PyTorch, timm and Ray takes each worker longer than all else until its first step, and a
run has several: its controller, its ranks, and Ray Train's helpers. The fork server imports once,
while this process checks the job and Ray starts. Ray's node manager is given a program (client.py)
that asks the server (server.py) for a worker. Whatever goes wrong there, Ray's own program is run.

A worker of it is a process like any other, with what Ray gives it: its environment, folder and
files. It shares memory with the others, as long as nobody writes to it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from ltm_platform.compat import ray_workers
from ltm_platform.ray_cluster.forked_workers import client
from ltm_platform.temporary import temporary_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ltm_platform.job import JobSpec

RANKS = ("ltm_platform.training.trainer",)
"""What all that train or score import, for `fork_server`."""
_VARIABLES = (client.SERVER, client.OTHERWISE)
_BACKLOG = 1024  # workers that are started while it imports
_LONGEST = 100
"""Of the folder of a Unix socket, whose path may have 107 characters."""


def needed(job: JobSpec) -> Sequence[str]:
    """What the ranks of a job import, for `fork_server`."""
    zero = ("ltm_platform.compat.deepspeed:import_deepspeed",) if job.engine.zero_stage else ()
    return (*RANKS, *zero)


@contextmanager
def fork_server(preload: Sequence[str], environment: Mapping[str, str]) -> Iterator[None]:
    """A Ray that this process starts in the block has its workers forked, unless there is nothing
    to import, or another server is named by the environment already.

    Args:
        preload: modules that it imports, and functions (``module:name``) that it calls for what
            they import. They may not import Ray.
        environment: variables that its process has, where this one has none of that name.
    """
    if not preload or client.SERVER in os.environ:
        yield
        return
    with ExitStack() as stack:
        folder = stack.enter_context(temporary_folder("ltm-fork-"))
        if len(str(folder)) > _LONGEST:
            yield
            return
        # Only the server listens: who asks one that has ended is refused at once.
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(folder / "socket"))
            listener.listen(_BACKLOG)
            # -P: no module of the folder in which the command was typed
            program = [sys.executable, "-P", "-m", f"{__name__}.server"]
            server = subprocess.Popen(
                [*program, str(listener.fileno()), *preload],
                env={**environment, **os.environ},
                stdin=subprocess.PIPE,
                pass_fds=[listener.fileno()],
                start_new_session=True,  # Ctrl-C is this process's to hear
            )
        stack.callback(_end, server)
        values = (str(folder / "socket"), str(ray_workers.own_program()))
        os.environ.update(zip(_VARIABLES, values, strict=True))
        try:
            yield
        finally:
            for name in _VARIABLES:
                os.environ.pop(name, None)


@contextmanager
def used() -> Iterator[None]:
    """A node manager that this process starts in the block uses the server, if there is one."""
    if client.SERVER in os.environ:
        with ray_workers.started_by(Path(client.__file__)):
            yield
    else:
        yield


def workers_of(managers: Sequence[int]) -> list[psutil.Process]:
    """What the server has forked for node managers, by their process ids."""
    found = []
    for manager in managers:
        with suppress(KeyError, OSError, psutil.NoSuchProcess):  # it has asked for none
            text = Path(os.environ[client.SERVER]).with_name(str(manager)).read_text()
            found += psutil.Process(int(text)).children()
    return found


def _end(server: subprocess.Popen[bytes]) -> None:
    """Its forks for node managers end with those."""
    assert server.stdin
    server.stdin.close()
    server.kill()  # it may still be importing
    server.wait()
