"""What is known of a Ray that outlives the terminal; one is started in tests/e2e/test_api.py."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING

import psutil
import pytest

from ltm_platform.compat.ray_core import START_ATTEMPTS
from ltm_platform.errors import UserError
from ltm_platform.ray_cluster import local_ray
from ltm_platform.ray_cluster.local_ray import LocalRay
from ltm_platform.ray_cluster.resources import Resources

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LTM_PLATFORM_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def ray(home: Path) -> Iterator[LocalRay]:
    """A process with a child, in the place of Ray's."""
    folder = home / "ray-files"
    folder.mkdir()
    script = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit())\n"
        "subprocess.Popen(['sleep', '600'])\n"
        "print('up', flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        created = psutil.Process(process.pid).create_time()
        there = LocalRay("http://127.0.0.1:1", process.pid, created, str(folder))
        record(home, there)
        yield there
        process.kill()


def record(home: Path, ray: LocalRay) -> None:
    (home / "ray.json").write_text(json.dumps(asdict(ray)))


@pytest.mark.usefixtures("home")
def test_without_a_record_there_is_none() -> None:
    assert local_ray.running() is None


def test_one_that_runs_is_found_and_a_second_one_is_refused(ray: LocalRay) -> None:
    assert local_ray.running() == ray
    with pytest.raises(UserError, match=f"up already on {ray.address}"):
        local_ray.start(Resources(cpus=1, gpus=0))


def test_one_that_ends_before_it_is_there_is_started_again(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Ray does where its node manager waits in vain for its agent."""
    program = tmp_path / "ray"
    program.write_text(f"#!/bin/sh\necho started >> {tmp_path}/starts\nexit 1\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(UserError, match=r"Ray did not start: .*ray\.log says why"):
        local_ray.start(Resources(cpus=1, gpus=0))
    assert len((tmp_path / "starts").read_text().splitlines()) == START_ATTEMPTS
    assert not (home / "ray.json").exists()


def test_another_process_with_its_number_is_not_taken_for_it(home: Path) -> None:
    created = psutil.Process().create_time() - 1000
    record(home, LocalRay("http://127.0.0.1:1", os.getpid(), created, str(home)))
    assert local_ray.running() is None


def test_stopping_ends_its_children_and_removes_its_files(ray: LocalRay, home: Path) -> None:
    process = psutil.Process(ray.pid)
    family = [process, *process.children()]
    assert len(family) == 2
    local_ray.stop(ray)
    assert not psutil.wait_procs(family, timeout=0)[1]
    assert not (home / "ray-files").exists()
    assert local_ray.running() is None


def test_a_port_where_nothing_listens_does_not_answer() -> None:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        assert not local_ray.answers(f"http://127.0.0.1:{probe.getsockname()[1]}", timeout_s=5)
