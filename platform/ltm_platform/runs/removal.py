"""Removing a run for good: its checkpoints, its folder, and what MLflow has of it."""

from __future__ import annotations

import platform
import shutil
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ltm_platform import tracking
from ltm_platform.errors import UserError
from ltm_platform.runs import lookup
from ltm_platform.runs.checkpoint_lookup import fetched_copies
from ltm_platform.storage import contact, locations
from ltm_platform.storage.run_folder import RunFolder
from ltm_platform.tracking.runs import HOST_TAG, PARENT_TAG

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ltm_platform.tracking import RunRecord


@dataclass(frozen=True, slots=True)
class Removal:
    """A run that can be removed, and what goes with it."""

    record: RunRecord
    trials: tuple[RunRecord, ...]
    """Of a sweep: the runs of its trials."""
    folder: RunFolder | None
    """None where it has been deleted by hand."""
    stored_bytes: int
    """Of its checkpoints, and of all else in its folder."""

    @property
    def name(self) -> str:
        return self.record.name


def removals(names: Sequence[str], store: str) -> list[Removal]:
    """See that runs may be removed here.

    Raises:
        UserError: there is no such run, it goes on, it is a trial, its folder is on another machine
            or cannot be reached, or a registered model is made of it.
    """
    records = tracking.list_runs(store)
    newest = {one.name: one for one in reversed(records)}
    for name in names:
        if name not in newest:
            tracking.find_run(store, name)  # which says that there is none
    return [_removal(newest[name], records, store) for name in dict.fromkeys(names)]


def _removal(record: RunRecord, records: Sequence[RunRecord], store: str) -> Removal:
    name = record.name
    state = lookup.state_of(record)
    if state not in ("FINISHED", "FAILED", "KILLED", lookup.LOST):
        raise UserError(
            f"the run {name!r} goes on ({state}): 'ltm-platform stop {name}' ends it first"
        )
    by_id = {one.run_id: one.name for one in records}
    if sweep := by_id.get(record.tags.get(PARENT_TAG, "")):
        raise UserError(f"{name!r} is a trial: remove its sweep (ltm-platform rm {sweep})")
    trials = tuple(one for one in records if one.tags.get(PARENT_TAG) == record.run_id)
    for one in (record, *trials):
        if versions := tracking.model_versions(store, one.run_id):
            raise UserError(
                f"of the run {one.name!r} is made {' and '.join(versions)}: delete that in MLflow "
                f"first, or keep the run"
            )
    folder = _folder(record)
    return Removal(record, trials, folder, _size(folder) if folder else 0)


def _folder(record: RunRecord) -> RunFolder | None:
    path = Path(record.folder or "")
    if not (record.folder and path.is_dir()):
        host = record.tags.get(HOST_TAG)
        if host and host != platform.node():
            raise UserError(f"the run {record.name!r} is on the machine {host}: remove it there")
        return None
    folder = RunFolder(path)
    if problem := contact.problem_of(folder.storage_root):
        raise UserError(
            f"the storage {locations.shown(folder.storage_root)} of the run {record.name!r} cannot "
            f"be reached: {problem}"
        )
    return folder


def _size(folder: RunFolder) -> int:
    own = sum(one.stat().st_size for one in folder.path.rglob("*") if one.is_file())
    if folder.storage.path == str(folder.path):
        return own
    return own + sum(size for _, size in folder.storage.files(recursive=True))


def remove(found: Removal, store: str) -> None:
    """Remove a run, with the trials of a sweep.

    Raises:
        UserError: it has begun to go on meanwhile, or the store does not answer.
        OSError: its storage cannot be written to.
    """
    folder = found.folder
    with folder.locked() if folder else nullcontext():
        for one in (*found.trials, found.record):
            tracking.remove_run(store, one.run_id)
            shutil.rmtree(fetched_copies(one), ignore_errors=True)
        if folder:
            _remove_folder(folder)


def clear(folder: RunFolder, store: str, *, keep_log: bool) -> None:
    """Remove the run of a folder, but perhaps for its log.

    Raises:
        UserError: the store does not answer; nothing is removed.
        OSError: the storage cannot be written to.
    """
    if folder.run_id:
        tracking.remove_run(store, folder.run_id)
    _remove_folder(folder, keep=(folder.log,) if keep_log else ())


def _remove_folder(folder: RunFolder, keep: tuple[Path, ...] = ()) -> None:
    if folder.storage.path != str(folder.path):
        folder.storage.delete_folder()
    for path in folder.path.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path not in keep:
            path.unlink()
    if not keep:
        folder.path.rmdir()
