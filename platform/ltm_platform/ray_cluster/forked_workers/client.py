"""What Ray's node manager starts for a worker, in place of Ray's own program: asks the fork server
for the worker. Where that cannot give it, this process becomes Ray's own program.

It imports next to nothing, since it runs for every worker.
"""

import json
import os
import socket
import sys
from contextlib import suppress

SERVER, OTHERWISE = "LTM_FORK_SERVER", "LTM_RAY_WORKER"
"""The server's socket; Ray's own program."""
OOM_SCORE = "/proc/self/oom_score_adj"
"""How readily the kernel kills a process that is short of memory: Ray sets it for workers."""
TAKEN = b"1"


def forked(address: str) -> bool:
    """Whether the server has forked a worker, with this process's arguments, environment, folder
    and standard files. It is silent while it is still importing."""
    request = {"words": sys.argv[1:], "environment": dict(os.environ), "folder": os.getcwd()}
    with open(OOM_SCORE) as file:
        request["oom_score"] = file.read()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.connect(address)
        socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2])
        return server.recv(1) == TAKEN


if __name__ == "__main__":
    with suppress(OSError):  # it has ended
        if forked(os.environ[SERVER]):
            sys.exit()
    os.execv(sys.executable, [sys.executable, os.environ[OTHERWISE], *sys.argv[1:]])
