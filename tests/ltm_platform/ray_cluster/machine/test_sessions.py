"""Of the folders that Rays leave behind, the newest is kept, and those in use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest

from ltm_platform.ray_cluster.machine.sessions import remember, remove_old
from ltm_platform.storage import locations

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ray's temporary folder, with a session that is not of this home."""
    monkeypatch.setenv(locations.HOME_VARIABLE, str(tmp_path / "home"))
    (tmp_path / "ray" / "session_0_of_another_program").mkdir(parents=True)
    return tmp_path / "ray"


def session(ray: Path, number: int) -> Path:
    folder = ray / f"session_{number}"
    (folder / "logs").mkdir(parents=True)
    remember(folder)
    record = locations.home() / "ray-sessions" / folder.name
    os.utime(record, (number, number))
    return folder


def left(ray: Path) -> list[str]:
    return sorted(folder.name for folder in ray.iterdir())


def test_the_newest_is_kept_and_what_is_not_ours(ray: Path) -> None:
    for number in (1, 2, 3):
        remove_old(session(ray, number))
    assert left(ray) == ["session_0_of_another_program", "session_3"]


def test_one_whose_command_was_killed_goes_with_the_next(ray: Path) -> None:
    killed = session(ray, 1)
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        created = psutil.Process(process.pid).create_time()
    record = locations.home() / "ray-sessions" / killed.name
    record.write_text(json.dumps({"folder": str(killed), "owner": [process.pid, created]}))
    os.utime(record, (1, 1))
    remove_old(session(ray, 2))
    assert left(ray) == ["session_0_of_another_program", "session_2"]


def test_one_that_still_runs_stays(ray: Path) -> None:
    session(ray, 1)
    remove_old(session(ray, 2))
    assert left(ray)[1:] == ["session_1", "session_2"]
