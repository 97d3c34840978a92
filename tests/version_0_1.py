"""What version 0.1 left behind: two runs, their tracking store and a folder of shards.

``tests/data/v0.1.tar.xz`` was made with the code of version 0.1 by the two programs inside it,
``make.sh`` and ``collect.py``, in the folder ``/v0.1``. It holds

- ``home``: an LTM_PLATFORM_HOME with two runs of ``stripes.yaml``, ltm with its information
  bottleneck on two workers at ZeRO 1 with an EMA: "finished" trained all three epochs, "stopped"
  was asked to stop and ended after the first,
- ``shards``: 24 training and 12 validation images of three classes, as ``data import`` wrote them,
- ``images``: some of the validation images as files,
- ``expected.json``: what version 0.1 answered about "finished".

Most weights are frozen: the same in all of its checkpoints, they lie in the archive once.
"""

from __future__ import annotations

import json
import platform
import sqlite3
import tarfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ARCHIVE = Path(__file__).parent / "data" / "v0.1.tar.xz"
MADE_IN = "/v0.1/"
TEXTS = {".yaml", ".json", ".log"}


@dataclass(frozen=True, slots=True)
class Stored:
    """The unpacked archive, as if it had been made where it lies now."""

    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def shards(self) -> Path:
        return self.folder / "shards"

    @property
    def store(self) -> str:
        """The address of the tracking store."""
        return f"sqlite:///{self.home / 'mlflow.db'}"

    @property
    def expected(self) -> dict[str, Any]:
        """``evaluate`` and ``predict``: what these commands printed with ``--json``; ``logits``
        [2, 3]: of a ramp from -1 to 1 over [3, 32, 32], and of its negative."""
        values: dict[str, Any] = json.loads((self.folder / "expected.json").read_text())
        return values

    def checkpoint(self, run: str) -> Path:
        """The only checkpoint in the folder of a run."""
        (path,) = (self.home / "runs" / run).glob("checkpoint_*/")
        return path


def unpack_shards(folder: Path) -> Path:
    """The folder of shards alone."""
    with tarfile.open(ARCHIVE) as archive:
        members = [member for member in archive if member.name.startswith("shards")]
        archive.extractall(folder, members, filter="data")
    return folder / "shards"


def unpack(folder: Path) -> Stored:
    """Unpack into ``folder`` and put its path wherever the original one stands."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    here = f"{folder}/"
    for path in folder.rglob("*"):
        # A checkpoint's own files are sealed by their checksums.
        if path.suffix in TEXTS and not path.parent.name.startswith("checkpoint_"):
            path.write_text(path.read_text().replace(MADE_IN, here))
    with closing(sqlite3.connect(folder / "home" / "mlflow.db")) as store, store:
        _move_store(store, here)
    return Stored(folder)


def _move_store(store: sqlite3.Connection, here: str) -> None:
    tables = store.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    for (table,) in tables:
        for _, column, kind, *_ in store.execute(f"PRAGMA table_info({table})").fetchall():
            if kind.startswith(("VARCHAR", "TEXT")):
                store.execute(
                    f"UPDATE {table} SET {column} = replace({column}, ?, ?) "
                    f"WHERE instr({column}, ?)",
                    (MADE_IN, here, MADE_IN),
                )
    store.execute("UPDATE tags SET value = ? WHERE key = 'ltm.host'", (platform.node(),))
