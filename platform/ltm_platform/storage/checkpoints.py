"""The checkpoints of a run, as the manifests in their folders tell; Ray Train's own record of them
is made again from these where it is lost or says something else."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from ltm_platform.compat.ray_checkpoints import FOLDER_PREFIX, RECORD_FILE, Recorded, read_record
from ltm_platform.errors import UserError
from ltm_platform.storage import manifest
from ltm_platform.storage.manifest import IncompleteCheckpoint, Sealed
from ltm_platform.temporary import temporary_folder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ltm_platform.storage.path import StoragePath
    from ltm_platform.storage.run_folder import RunFolder

BEST_METRIC = "val/top1"
MISSING = "is missing"
"""What is wrong with a record that is not there."""


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """A checkpoint that the run has finished writing."""

    path: Path
    """The local folder; of one in an object store, where `fetch` copies it."""
    metrics: dict[str, float]
    source: StoragePath
    """Where the run has written it."""
    steps_done: int

    def fetch(self) -> Path:
        """The local folder with its files, copied there if need be."""
        if self._is_elsewhere and not self.path.is_dir():
            with FileLock(f"{self.path}.lock"), temporary_folder("tmp", self.path.parent) as part:
                if not self.path.is_dir():
                    self.source.fetch(part / "copy")
                    (part / "copy").rename(self.path)
        return self.path

    def checked(self, run_id: str | None) -> Path:
        """`fetch`, with every file as it was written; a damaged copy is made again.

        Raises:
            UserError: the checkpoint is damaged, or not of the run ``run_id`` in MLflow.
        """
        try:
            manifest.check(self.fetch(), run_id=run_id, name=self.path.name)
        except UserError:
            if not self._is_elsewhere:
                raise
            shutil.rmtree(self.path)
            manifest.check(self.fetch(), run_id=run_id, name=self.path.name)
        return self.path

    @property
    def _is_elsewhere(self) -> bool:
        return self.source.path != str(self.path)

    @property
    def top1(self) -> float | None:
        """Validation top-1 in percent; None for one written within an epoch."""
        return self.metrics.get(BEST_METRIC)


def stored(folder: RunFolder) -> list[StoredCheckpoint]:
    """A run's finished checkpoints, the oldest first, whether or not the run finished."""
    return survey_of(folder.storage, folder.path, folder.run_id).whole


def holds_checkpoint(folder: RunFolder) -> bool:
    """Whether a run has a whole checkpoint to go on from; perhaps, where its storage is away."""
    try:
        return bool(stored(folder))
    except OSError:
        return True


def best(found: Sequence[StoredCheckpoint]) -> StoredCheckpoint | None:
    """The first of the highest validation top-1, if any was validated."""
    validated = [one for one in found if one.top1 is not None]
    return max(validated, key=lambda one: one.top1 or 0.0, default=None)


def choose(folder: RunFolder, *, last: bool, run_id: str | None) -> StoredCheckpoint | None:
    """A run's last checkpoint, or its best; None if it has none, or some were removed.

    ``run_id`` is the run's in MLflow.

    Raises:
        UserError: one that may be the best, or the last, is damaged.
    """
    survey = survey_of(folder.storage, folder.path, run_id)
    recorded = {one.name: one for one in survey.recorded or ()}
    unknown = [one for one in survey.whole if one.path.name not in recorded]
    if len(survey.gone) > len(unknown):  # more than names that were damaged in the record
        return None
    chosen = next(reversed(survey.whole), None) if last else best(survey.whole)
    for name, error in survey.damaged.items():
        if last:
            matters = survey.is_newest(name)
        elif name in recorded:
            top1 = recorded[name].metrics.get(BEST_METRIC)
            matters = top1 is not None and not (chosen and top1 < (chosen.top1 or 0.0))
        else:
            matters = True
        if matters:
            kind = "last" if last else "best"
            raise UserError(
                f"{error}; it may be the {kind} of {folder.name!r}: name the folder of another "
                "checkpoint, or remove this one"
            )
    return chosen


@dataclass(frozen=True, slots=True)
class Survey:
    """What lies in a run's storage."""

    whole: list[StoredCheckpoint]
    """As far as rank 0's manifest and the names of the others tell; the oldest first."""
    damaged: dict[str, UserError]
    """By name: what was whole once, as far as can be known."""
    unfinished: list[str]
    """What a kill left half-written, or half removed."""
    recorded: list[Recorded] | None
    """Ray Train's record; None where there is none that can be read."""
    problem: str | None
    """What is wrong with that record."""
    gone: list[str]
    """Names in the record of what is not there."""

    def is_newest(self, damaged: str) -> bool:
        """Whether it came after all that are whole, by the time in its name."""
        return not self.whole or damaged > self.whole[-1].path.name

    @property
    def damaged_newest(self) -> UserError | None:
        """What is wrong with the newest of all, unless it may never have been complete."""
        for name, error in sorted(self.damaged.items(), reverse=True):
            half_written = self.recorded is None and isinstance(error, IncompleteCheckpoint)
            if self.is_newest(name) and not (half_written and self.whole):
                return error
        return None


def survey_of(storage: StoragePath, folder: Path, run_id: str | None) -> Survey:
    """Of a run's storage, which may be elsewhere, and its own folder."""
    whole: list[StoredCheckpoint] = []
    bad: dict[str, UserError] = {}
    for name in (name for name in storage.folders() if name.startswith(FOLDER_PREFIX)):
        try:
            whole.append(_read(storage / name, folder / name, run_id))
        except UserError as error:
            bad[name] = error
    whole.sort(key=lambda one: (one.steps_done, one.path.name))
    # Last: Ray Train changes the record before it removes a folder.
    recorded, problem = _read_record(storage)
    names = {one.name for one in recorded or ()}
    incomplete = {name for name, error in bad.items() if isinstance(error, IncompleteCheckpoint)}
    # Ray Train writes the record when the first checkpoint is complete.
    in_the_first = problem == MISSING and not whole and incomplete == bad.keys()
    known = recorded is not None or in_the_first
    unfinished = [name for name in bad if known and name in incomplete and name not in names]
    there = {one.path.name for one in whole} | bad.keys()
    gone = [name for name in sorted(names - there) if not (storage / name).exists()]
    told = [one for one in recorded or () if one.name not in bad]
    if problem is None and _facts(told) != _facts(whole):
        problem = "says something else"
    return Survey(
        whole,
        {name: error for name, error in bad.items() if name not in unfinished},
        unfinished,
        recorded,
        problem,
        gone,
    )


def _facts(found: Sequence[Recorded] | Sequence[StoredCheckpoint]) -> list[tuple[str, str]]:
    """Names and metrics in their order; as text, in which NaN is equal to NaN."""
    return [
        (
            one.name if isinstance(one, Recorded) else one.path.name,
            json.dumps(one.metrics, sort_keys=True),
        )
        for one in found
    ]


def _read(source: StoragePath, path: Path, run_id: str | None) -> StoredCheckpoint:
    """Raises: UserError: it is not whole, or not what this run wrote there."""
    first = manifest.read_first(source, run_id=run_id, name=path.name)
    if not isinstance(first, Sealed):
        return StoredCheckpoint(path, _unsealed_metrics(source, first), source, first.steps_done)
    if first.content != "training":
        raise manifest.damaged(source, "it holds weights alone, which is not enough to resume")
    return StoredCheckpoint(path, first.metrics, source, first.steps_done)


def _unsealed_metrics(source: StoragePath, of: manifest.Manifest) -> dict[str, float]:
    """The metrics of a checkpoint of version 0.1, which are in what it was to repeat to MLflow."""
    text = manifest.read_file(source, manifest.PROGRESS_FILE, of)
    sent: list[dict[str, Any]] = json.loads(json.loads(text)["history"])
    own = [one["metrics"] for one in sent if one["step"] == of.steps_done]
    return next((metrics for metrics in reversed(own) if BEST_METRIC in metrics), {})


def _read_record(storage: StoragePath) -> tuple[list[Recorded] | None, str | None]:
    """Ray Train's record of the checkpoints, and what is wrong with it."""
    try:
        return read_record((storage / RECORD_FILE).read()), None
    except FileNotFoundError:
        return None, MISSING
    except ValueError:
        return None, "cannot be read"
