"""A run's folder: its name, its job, its log and its checkpoints."""

from __future__ import annotations

import hashlib
import os
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from ltm_platform.errors import UserError
from ltm_platform.storage import contact, locations, permissions
from ltm_platform.storage.files import STOP_FILE, SWEEP_FILE, remove_parts, written_whole
from ltm_platform.storage.path import is_address, storage_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ltm_platform.job import JobSpec
    from ltm_platform.storage.path import StoragePath


_SEAL = b"# sha256 of what follows: "
LOCK_TIMEOUT_S = 0.3
"""For a lock that another command holds for a moment to see whether it is free."""


@dataclass(frozen=True, slots=True)
class Resume:
    """How a run that was started before is resumed."""

    run_id: str
    """The id of its MLflow run."""
    changes: Mapping[str, str]
    """Fields of its job that differ from now on, each with ``old -> new``."""
    rewound: bool
    """Whether it resumes from an earlier checkpoint than its last."""

    @property
    def alters_training(self) -> bool:
        """Steps that are repeated may now give other results than those already recorded."""
        return self.rewound or any(key.startswith("recipe.") for key in self.changes)


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """The run that a checkpoint is of."""

    name: str
    run_id: str
    """In MLflow."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder of one run: its log, its resolved job and, unless they are in an object store, its
    checkpoints with Ray Train's record of them."""

    path: Path

    @classmethod
    def reserve(cls, job: JobSpec, name: str | None = None) -> RunFolder:
        """Make the folder of ``name``, or of the next free ``<job name>-<number>``.

        The folder of a run that was killed before it was recorded is taken over: nobody could
        resume it.

        Raises:
            UserError: a run of that name exists already.
        """
        storage = job.cluster.storage
        address = storage if storage and is_address(storage) else None
        root = Path(storage) if storage and not address else locations.runs()
        permissions.make_folder(root)
        names: Iterable[str] = [name] if name else (f"{job.name}-{n}" for n in count(1))
        for candidate in names:
            if address and (storage_path(address) / candidate).exists():
                continue
            try:
                (root / candidate).mkdir()
            except FileExistsError:
                # Without a name another process may have made it just now, to lock it next.
                if name is None or cls(root / candidate).has_begun:
                    continue
            folder = cls(root / candidate)
            permissions.share(folder.path)
            if address:
                folder.store_at(address)
            return folder
        raise UserError(
            f"a run named {name!r} exists already: go on with it (ltm-platform resume {name}) "
            f"or choose another --name"
        )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time runs it; the system frees the lock however that process ends.

        Raises:
            UserError: another process has it.
        """
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=LOCK_TIMEOUT_S)
        except Timeout:
            raise UserError(
                f"the run {self.name!r} is being trained by another process: "
                f"wait for it or stop that one first"
            ) from None
        remove_parts(self.path)
        if self.is_sweep:
            remove_parts(self.path, "*/*")  # of its trials
        self._pid.write_text(str(os.getpid()))
        self._stop_request.delete()
        try:
            yield
        finally:
            lock.release()

    def is_locked(self) -> bool:
        """Whether a process on this machine runs it."""
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
        return False

    @property
    def has_begun(self) -> bool:
        """Whether it holds more than a run that was killed before it was recorded."""
        begun = {self._elsewhere, self.log, self.job, self._pid, self.path / ".lock"}
        begun |= set(self.path.glob(f".{self.job.stem}.*"))  # a job that was being written
        return not begun.issuperset(self.path.iterdir()) or self.is_locked()

    @property
    def owner(self) -> RunFolder:
        """Whose lock is held while it runs: a trial's sweep, else the run itself."""
        sweep = RunFolder(self.path.parent.parent)
        return sweep if sweep.is_sweep else self

    @property
    def is_sweep(self) -> bool:
        return (self.path / SWEEP_FILE).is_file()

    @property
    def pid(self) -> int | None:
        """The process that runs it; None if there is none."""
        return int(self._pid.read_text()) if self.is_locked() and self._pid.exists() else None

    @property
    def _pid(self) -> Path:
        return self.path / ".pid"

    def request_stop(self) -> None:
        """Have the run save and end.

        Raises:
            UserError: its storage cannot be written to.
        """
        problem = contact.problem_of(self.storage_root)
        try:
            if problem is None:
                self._stop_request.write(b"")
        except OSError as error:
            problem = str(error.strerror or error)
        if problem:
            raise UserError(
                f"the run {self.name!r} cannot be asked to stop, since its storage "
                f"{locations.shown(self.storage_root)} cannot be written to: {problem}; "
                f"'stop --now' ends it without a last checkpoint"
            )

    @property
    def _stop_request(self) -> StoragePath:
        return self.storage / STOP_FILE

    def store_at(self, address: str) -> None:
        """Have Ray Train store below an address, rather than in this folder."""
        self._elsewhere.write_text(address)

    @property
    def storage_root(self) -> str:
        """Folder or address below which Ray Train's storage of the run has the run's name."""
        return self._elsewhere.read_text() if self._elsewhere.exists() else str(self.path.parent)

    @property
    def storage(self) -> StoragePath:
        """Ray Train's storage of the run, which every node reaches."""
        return storage_path(self.storage_root) / self.name

    @property
    def _elsewhere(self) -> Path:
        return self.path / ".storage"

    def belongs_to(self, run_id: str) -> None:
        """Note the id of the run in MLflow: its checkpoints have it, too."""
        if self.run_id != run_id:
            self._run_id.write_text(run_id)

    @property
    def run_id(self) -> str | None:
        """The id of the run in MLflow; None where it is not known, as of a run of version 0.1."""
        return self._run_id.read_text(errors="replace") if self._run_id.exists() else None

    @property
    def _run_id(self) -> Path:
        return self.path / ".run_id"

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def log(self) -> Path:
        return self.path / "run.log"

    @property
    def job(self) -> Path:
        """The resolved job, as it was started, with a seal in its first line."""
        return self.path / "job.yaml"

    def write_job(self, text: str) -> None:
        """Keep the resolved job, in YAML, sealed."""
        content = text.encode()
        with written_whole(self.job) as part:
            part.write_bytes(_job_seal(content) + b"\n" + content)

    @property
    def job_is_whole(self) -> bool:
        """Whether the job is there and as it was written. That of a run of version 0.1, which is
        not sealed, is taken for whole."""
        try:
            content = self.job.read_bytes()
        except FileNotFoundError:
            return False
        seal, _, text = content.partition(b"\n")
        return seal == _job_seal(text) or (self.run_id is None and not seal.startswith(_SEAL))


def _job_seal(text: bytes) -> bytes:
    return _SEAL + hashlib.sha256(text).hexdigest().encode()


def storage_root(job: JobSpec) -> StoragePath:
    """What holds the runs' checkpoints: a folder here, on a share or in an object store.

    Raises:
        UserError: it is no address.
    """
    return storage_path(job.cluster.storage or locations.runs())
