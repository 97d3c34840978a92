"""Folders in which Rays of this user have left their logs: the newest is kept, for looking into."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import psutil

from ltm_platform.storage import locations


def _records() -> Path:
    return locations.home() / "ray-sessions"


def remember(session: Path) -> None:
    """Note a Ray's folder, so that it is removed even if this process is killed."""
    _records().mkdir(parents=True, exist_ok=True)
    _record(session, [os.getpid(), psutil.Process().create_time()])


def _record(session: Path, owner: list[float] | None) -> None:
    """``owner``: the process whose Ray it is, and when that started; None: it has ended."""
    values = {"folder": str(session), "owner": owner}
    (_records() / session.name).write_text(json.dumps(values))


def remove_old(ended: Path) -> None:
    """Remove the folders of Rays that have ended, all but the newest; ``ended`` is one of them."""
    _record(ended, None)
    found = []
    for record in _records().glob("*"):
        try:
            values = json.loads(record.read_text())
        except (OSError, ValueError):  # another command writes or removes it just now
            continue
        folder = Path(values["folder"])
        if not _is_alive(values["owner"]):
            found.append((record.stat().st_mtime, record, folder))
    for _, record, folder in sorted(found)[:-1]:
        shutil.rmtree(folder, ignore_errors=True)
        record.unlink(missing_ok=True)


def _is_alive(owner: list[float] | None) -> bool:
    if owner is None:
        return False
    pid, created = owner
    try:
        return psutil.Process(int(pid)).create_time() == created
    except psutil.NoSuchProcess:
        return False
