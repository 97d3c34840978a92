"""The fork server, with programs of the test in place of Ray's worker; Ray's: test_session.py."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from ltm_platform.compat import ray_workers
from ltm_platform.job import JobSpec
from ltm_platform.ray_cluster import forked_workers
from ltm_platform.ray_cluster.forked_workers import client, fork_server, workers_of

if TYPE_CHECKING:
    from collections.abc import Iterator

WORKER = """
import json, os, random, sys
print(json.dumps({
    "argv": sys.argv[1:],
    "MINE": os.environ.get("MINE"),
    "folder": os.getcwd(),
    "imported": "wave" in sys.modules,
    "deepspeed": "deepspeed" in sys.modules,
    "leads its group": os.getpgid(0) == os.getpid(),
    "pid": os.getpid(),
    "drawn": random.random(),
}), flush=True)
if "stays" in sys.argv:
    os.kill(os.getpid(), __import__("signal").SIGSTOP)
"""


@contextmanager
def manager() -> Iterator[subprocess.Popen[bytes]]:
    """A process in place of a node manager."""
    with subprocess.Popen(["sleep", "600"]) as process:
        try:
            yield process
        finally:
            process.kill()


def first_line(program: Path, *words: str, manager: int, **changes: str) -> dict[str, Any]:
    """What a worker prints that is started as a node manager does it."""
    with subprocess.Popen(
        [sys.executable, client.__file__, "--language=PYTHON", str(program), *words],
        env=os.environ | {ray_workers.MANAGER_VARIABLE: str(manager)} | changes,
        cwd=program.parent,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        return dict(json.loads(process.stdout.readline()))


@pytest.fixture
def worker(tmp_path: Path) -> Path:
    program = tmp_path / "worker.py"
    program.write_text(WORKER)
    return program


@pytest.fixture
def ray_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of Ray's own program one that tells its arguments."""
    own = tmp_path / "own.py"
    own.write_text("import json, sys; print(json.dumps({'own': sys.argv[1:]}))")
    monkeypatch.setattr(ray_workers, "own_program", lambda: own)


def test_a_worker_is_what_its_client_was_and_finds_all_imported(worker: Path) -> None:
    with fork_server(["wave"], {}), manager() as one:
        found = [first_line(worker, "a b", manager=one.pid, MINE=value) for value in ("é", "2")]
        for said, value in zip(found, ("é", "2"), strict=True):
            assert said["argv"] == ["a b"]
            assert said["MINE"] == value
            assert said["folder"] == str(worker.parent)
            assert said["imported"]
            assert said["leads its group"]
        assert found[0]["drawn"] != found[1]["drawn"]


def test_a_client_that_is_killed_does_no_harm(worker: Path) -> None:
    with fork_server(["wave"], {}), manager() as one:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as killed:
            killed.connect(os.environ[client.SERVER])
        assert first_line(worker, "a", manager=one.pid)["imported"]


def test_its_folder_goes_with_a_process_that_is_killed() -> None:
    program = (
        "import os, psutil\n"
        "from ltm_platform.ray_cluster.forked_workers import client, fork_server\n"
        "with fork_server(['wave'], {}):\n"
        "    print(os.environ[client.SERVER], psutil.Process().children()[0].pid, flush=True)\n"
        "    os.kill(os.getpid(), 9)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    address, server = ran.stdout.split()
    folder = Path(address).parent
    assert folder.name.startswith("ltm-fork-")
    with suppress(psutil.NoSuchProcess):  # it has ended already
        psutil.Process(int(server)).wait(60)
    assert not folder.exists()


def test_workers_end_with_their_node_manager_even_those_that_are_stopped(worker: Path) -> None:
    with fork_server(["wave"], {}):
        with manager() as one, manager() as other:
            mine, its = (
                psutil.Process(first_line(worker, "stays", manager=who.pid)["pid"])
                for who in (one, other)
            )
            assert [process.pid for process in workers_of([one.pid])] == [mine.pid]
            assert workers_of([os.getpid()]) == []
            one.kill()
            mine.wait(30)
            assert its.is_running()
        its.wait(30)


@pytest.mark.usefixtures("ray_own")
def test_what_the_server_cannot_fork_ray_starts_itself(worker: Path) -> None:
    special = json.dumps({"py_executable": "/usr/bin/another"})
    words = [f"--serialized-runtime-env-context={special}"]
    with fork_server(["wave"], {}), manager() as one:
        said = first_line(worker, *words, manager=one.pid)
    assert said == {"own": ["--language=PYTHON", str(worker), *words]}


@pytest.mark.usefixtures("ray_own")
def test_without_its_server_ray_starts_workers_itself(worker: Path) -> None:
    with fork_server(["wave"], {}), manager() as one:
        (server,) = (
            child
            for child in psutil.Process().children()
            if f"{forked_workers.__name__}.server" in child.cmdline()
        )
        server.send_signal(signal.SIGKILL)
        server.wait(30)
        said = first_line(worker, "a", manager=one.pid)
    assert said == {"own": ["--language=PYTHON", str(worker), "a"]}


def test_only_what_has_something_to_import_has_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with fork_server([], {}):
        assert client.SERVER not in os.environ
    monkeypatch.setenv(client.SERVER, "another")
    with fork_server(["wave"], {}):
        assert os.environ[client.SERVER] == "another"
    assert os.environ[client.SERVER] == "another"


def test_ranks_find_deepspeed_where_they_need_it(worker: Path) -> None:
    job = JobSpec.load("quickstart")
    assert forked_workers.needed(job.replace("engine.zero_stage", 0)) == forked_workers.RANKS
    needed = forked_workers.needed(job.replace("engine.zero_stage", 1))
    with fork_server([*needed, "wave"], {}), manager() as one:
        said = first_line(worker, manager=one.pid)
    assert said["deepspeed"], "it asks for GPUs when it is imported"
    assert said["imported"]


def test_nothing_that_ranks_import_imports_ray() -> None:
    program = (
        "import sys; from pkgutil import resolve_name\n"
        f"for name in {[*forked_workers.needed(JobSpec.load('quickstart'))]!r}:\n"
        "    found = resolve_name(name)\n"
        "    if ':' in name: found()\n"
        "print(*(name in sys.modules for name in ('deepspeed', 'timm', 'ray')))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout.splitlines()[-1] == "True True False"
