"""The checkpoints of a run, as Ray Train's own record of them tells."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltm_platform import checkpoints
from ltm_platform.errors import UserError, nearest

if TYPE_CHECKING:
    from pathlib import Path

    from ltm_platform.launch.folder import RunFolder

BEST_METRIC = "val/top1"
_RECORD = "checkpoint_manager_snapshot.json"


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """A checkpoint that the run has finished writing."""

    path: Path
    metrics: dict[str, float]

    @property
    def top1(self) -> float | None:
        """Validation top-1 in percent; None for one written within an epoch."""
        return self.metrics.get(BEST_METRIC)


def stored(folder: RunFolder) -> list[StoredCheckpoint]:
    """A run's finished checkpoints, the oldest first, whatever became of the run."""
    record = folder.path / _RECORD
    if not record.exists():
        return []
    state = json.loads(record.read_text())
    found = zip(state["checkpoint_report_indices"], state["checkpoint_results"], strict=True)
    return [
        StoredCheckpoint(folder.path / result["checkpoint_dir_name"], result["metrics"])
        for _, result in sorted(found, key=lambda pair: pair[0])
    ]


def best(found: list[StoredCheckpoint]) -> StoredCheckpoint | None:
    """The first of the highest validation top-1, if any was validated."""
    validated = [one for one in found if one.top1 is not None]
    return max(validated, key=lambda one: one.top1 or 0.0, default=None)


def prepare_to_resume(folder: RunFolder, start: str | None) -> None:
    """See that the checkpoint to go on from is whole, and make it the run's last.

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
            checkpoints.check(found[position].path)
        except UserError as error:
            raise UserError(f"{error}; {_way_out(folder, names[:position])}") from None
    if start:
        _forget(folder, set(names[position + 1 :]), start)
        names = names[: position + 1]
    for path in folder.path.glob("checkpoint_*/"):
        if path.name not in names:
            shutil.rmtree(path)


def _way_out(folder: RunFolder, before: list[str]) -> str:
    if not before:
        return "there is none before it: start again with ltm-platform submit"
    return f"go on from the one before it: ltm-platform resume {folder.name} --from {before[-1]}"


def _forget(folder: RunFolder, names: set[str], last: str) -> None:
    """Ray Train goes on from the latest in its record: make that ``last``."""
    record = folder.path / _RECORD
    state = json.loads(record.read_text())
    pairs = zip(state["checkpoint_report_indices"], state["checkpoint_results"], strict=True)
    kept = [pair for pair in pairs if pair[1]["checkpoint_dir_name"] not in names]
    state["checkpoint_report_indices"] = [index for index, _ in kept]
    state["checkpoint_results"] = [result for _, result in kept]
    state["latest_checkpoint_result"] = next(
        result for _, result in kept if result["checkpoint_dir_name"] == last
    )
    replacement = record.with_suffix(".tmp")
    replacement.write_text(json.dumps(state))
    replacement.replace(record)
