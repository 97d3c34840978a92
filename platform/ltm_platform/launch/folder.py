"""A run's folder: its name, its job, its log and its checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from ltm_platform import paths
from ltm_platform.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ltm_platform.job import JobSpec


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
