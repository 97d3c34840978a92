"""A run's folder: its name, its job, its log and its checkpoints."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from ltm_platform import paths
from ltm_platform.errors import UserError
from ltm_platform.files import STOP_FILE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ltm_platform.job import JobSpec


PATIENCE_S = 0.3
"""For a lock that another command holds only to see whether it is free."""


@dataclass(frozen=True, slots=True)
class GoingOn:
    """A run that was begun before."""

    run_id: str
    """Its MLflow run."""
    changes: Mapping[str, str]
    """Fields of its job that differ from now on, each with ``old -> new``."""
    rewound: bool
    """From an earlier checkpoint than its last."""

    @property
    def anew(self) -> bool:
        """Steps that were taken before may come out differently now."""
        return self.rewound or any(key.startswith("recipe.") for key in self.changes)


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Ray Train's storage for one run, which also holds the run's log and resolved job."""

    path: Path

    @classmethod
    def reserve(cls, job: JobSpec, name: str | None = None) -> RunFolder:
        """Make the folder of ``name``, or of the next free ``<job name>-<number>``.

        Raises:
            UserError: a run of that name exists already.
        """
        root = Path(job.cluster.storage) if job.cluster.storage else paths.runs()
        root.mkdir(parents=True, exist_ok=True)
        names: Iterable[str] = [name] if name else (f"{job.name}-{n}" for n in count(1))
        for candidate in names:
            try:
                (root / candidate).mkdir()
            except FileExistsError:
                continue
            return cls(root / candidate)
        raise UserError(
            f"a run named {name!r} exists already: go on with it (ltm-platform resume {name}) "
            f"or choose another --name"
        )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time carries out the run; the system frees it however that one ends.

        Raises:
            UserError: another process has it.
        """
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=PATIENCE_S)
        except Timeout:
            raise UserError(
                f"the run {self.name!r} is being trained by another process: "
                f"wait for it or stop that one first"
            ) from None
        self._pid.write_text(str(os.getpid()))
        self.stop_request.unlink(missing_ok=True)
        try:
            yield
        finally:
            lock.release()

    def is_locked(self) -> bool:
        """Whether a process on this machine carries out the run."""
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
        return False

    @property
    def pid(self) -> int | None:
        """The process that carries out the run; None if none does."""
        return int(self._pid.read_text()) if self.is_locked() and self._pid.exists() else None

    @property
    def _pid(self) -> Path:
        return self.path / ".pid"

    @property
    def stop_request(self) -> Path:
        """While this file is there, the run is to save and end."""
        return self.path / STOP_FILE

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def log(self) -> Path:
        return self.path / "run.log"

    @property
    def job(self) -> Path:
        """The resolved job, as it was started."""
        return self.path / "job.yaml"
