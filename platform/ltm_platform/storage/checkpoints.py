"""The checkpoints of a run, according to Ray Train's own record of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from filelock import FileLock

from ltm_platform.compat.ray_checkpoints import (
    FOLDER_PREFIX,
    RECORD_FILE,
    drop_from_record,
    read_record,
)
from ltm_platform.errors import UserError, nearest
from ltm_platform.storage import locations, manifest, permissions
from ltm_platform.storage.path import is_address, storage_path
from ltm_platform.storage.run_folder import RunFolder

if TYPE_CHECKING:
    from ltm_platform.storage.path import StoragePath

BEST_METRIC = "val/top1"


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """A checkpoint that the run has finished writing."""

    path: Path
    """The local folder; of one in an object store, where `fetch` copies it."""
    metrics: dict[str, float]
    source: StoragePath
    """Where the run has written it."""

    def fetch(self) -> Path:
        """The local folder with its files, copied there if need be."""
        elsewhere = self.source.path != str(self.path)
        if elsewhere and not self.path.is_dir():
            with FileLock(f"{self.path}.lock"), TemporaryDirectory(dir=self.path.parent) as part:
                if not self.path.is_dir():
                    self.source.fetch(Path(part) / "copy")
                    (Path(part) / "copy").rename(self.path)
        return self.path

    @property
    def top1(self) -> float | None:
        """Validation top-1 in percent; None for one written within an epoch."""
        return self.metrics.get(BEST_METRIC)


def stored(folder: RunFolder) -> list[StoredCheckpoint]:
    """A run's finished checkpoints, the oldest first, whether or not the run finished."""
    return _recorded(folder.storage, folder.path)


def _recorded(storage: StoragePath, folder: Path) -> list[StoredCheckpoint]:
    """Those in Ray Train's storage of a run; ``folder`` is the run's own."""
    record = storage / RECORD_FILE
    if not record.exists():
        return []
    return [
        StoredCheckpoint(folder / one.name, one.metrics, storage / one.name)
        for one in read_record(record.read())
    ]


def best(found: list[StoredCheckpoint]) -> StoredCheckpoint | None:
    """The first of the highest validation top-1, if any was validated."""
    validated = [one for one in found if one.top1 is not None]
    return max(validated, key=lambda one: one.top1 or 0.0, default=None)


def restored_folder(name: str, address: str) -> RunFolder | None:
    """A new folder for a run whose own is lost, from what is in an object store.

    None: nothing of the run is there.
    """
    if not is_address(address):
        return None
    folder = RunFolder(locations.runs() / name)
    found = _recorded(storage_path(address) / name, folder.path)
    if not found:
        return None
    permissions.make_folder(folder.path)
    folder.store_at(address)
    folder.job.write_bytes((found[-1].source / manifest.JOB_FILE).read())
    return folder


def prepare_to_resume(folder: RunFolder, start: str | None) -> None:
    """Check that the checkpoint to resume from is whole, and make it the run's last.

    ``start`` names an earlier one; what came after it is removed. So is what a killed run left
    half-written.

    Raises:
        UserError: there is no such checkpoint, or it is damaged; the one before it is offered.
    """
    found = stored(folder)
    names = [one.path.name for one in found]
    if start is not None and start not in names:
        raise UserError(
            f"the run {folder.name!r} has no checkpoint {start!r}{nearest(start, names)}"
            f" (it has {', '.join(names) or 'none'})"
        )
    position = names.index(start) if start else len(names) - 1
    if found:
        try:
            manifest.check(found[position].fetch())
        except UserError as error:
            raise UserError(f"{error}; {_way_out(folder, names[:position])}") from None
    if start:
        record = folder.storage / RECORD_FILE
        record.write(drop_from_record(record.read(), names[position + 1 :], last=start))
        names = names[: position + 1]
    for where in (storage_path(folder.path), folder.storage):
        for name in where.folders():
            if name.startswith(FOLDER_PREFIX) and name not in names:
                (where / name).delete_folder()


def _way_out(folder: RunFolder, before: list[str]) -> str:
    if not before:
        return "there is none before it: start again with ltm-platform submit"
    return f"go on from the one before it: ltm-platform resume {folder.name} --from {before[-1]}"
