"""What a run left: its metrics, its state in the store, its weights, its files."""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MEASURED = re.compile(r"^(system|bench|time|memory)/|images_per_s$")
"""Metrics that differ between two runs of one job."""
_NUMBER = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{32}|\d+")
_TEMPORARY = re.compile(r"\.part\b|\.tmp\b|^\.checkpoint|-journal$|-wal$|-shm$")


@dataclass(frozen=True, slots=True)
class Record:
    """A finished run, as far as two of one job must agree."""

    metrics: dict[str, list[tuple[int, float]]]
    """Every step with its value, of what is not measured."""
    checkpoints: list[tuple[int, str]]
    """Of the folders that are kept: optimizer steps, and a digest of what resuming needs."""
    files: dict[str, int]
    """How many files of each name; numbers in names stand for each other."""


def status(home: Path, name: str) -> str | None:
    """The run's state in the store; None: it is not there."""
    with closing(_open(home)) as store:
        found = store.execute("SELECT status FROM runs WHERE name = ?", [name]).fetchall()
    assert len(found) < 2, f"{len(found)} runs are named {name}"
    return found[0][0] if found else None


def metrics(home: Path, name: str) -> dict[str, list[tuple[int, float]]]:
    """Every metric of a run by step, with steps that were recorded twice."""
    query = (
        "SELECT key, step, value FROM metrics WHERE run_uuid ="
        " (SELECT run_uuid FROM runs WHERE name = ?) ORDER BY key, step, timestamp"
    )
    found: dict[str, list[tuple[int, float]]] = {}
    with closing(_open(home)) as store:
        for key, step, value in store.execute(query, [name]):
            found.setdefault(key, []).append((step, value))
    return found


def _open(home: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{home / 'mlflow.db'}?mode=ro", uri=True)


def record(home: Path, name: str) -> Record:
    """Of a finished run."""
    curves = {k: v for k, v in metrics(home, name).items() if not MEASURED.search(k)}
    folder = home / "runs" / name
    kept = sorted(folder.glob("checkpoint_*/"))
    names = Counter(_NUMBER.sub("#", str(file.relative_to(home))) for file in _files(home))
    return Record(curves, [(_steps(one), _digest(one)) for one in kept], dict(names))


def doubled(home: Path, name: str) -> list[str]:
    """Metrics that have two values at one step; those of the machine are sampled by time."""
    found = metrics(home, name)
    return [
        key
        for key, curve in found.items()
        if not key.startswith("system/") and len({step for step, _ in curve}) < len(curve)
    ]


def leftovers(home: Path) -> Iterator[str]:
    """Files that a command was about to replace or to remove."""
    for file in _files(home):
        if _TEMPORARY.search(file.name) or file.is_relative_to(home / "tmp"):
            yield str(file.relative_to(home))


def processes(home: Path) -> list[psutil.Process]:
    """Those that were started for commands in a home and are still there."""
    found = []
    for process in psutil.process_iter():
        try:
            mine = process.environ().get("LTM_PLATFORM_HOME") == str(home)
            if mine and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def _files(home: Path) -> list[Path]:
    return [path for path in home.rglob("*") if not path.is_dir()]


def _steps(checkpoint: Path) -> int:
    from ltm_platform.storage.manifest import read_manifest

    return read_manifest(checkpoint).steps_done


def _digest(checkpoint: Path) -> str:
    """Of weights, averages, optimizer state and RNG states, bit for bit."""
    digest = hashlib.sha256()
    for file in sorted(checkpoint.iterdir()):
        if file.suffix in (".safetensors", ".pt"):
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()
