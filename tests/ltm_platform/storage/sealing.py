"""Folders of checkpoints whose files are whatever a test writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ltm_platform.storage.manifest import Origin, fingerprints, manifest_name, sealed

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

RUN_ID = "f00d"


def seal(folder: Path, names: Iterable[str], rank: int = 0, **values: Any) -> None:
    """Write a rank's manifest of the files ``names`` in ``folder``; ``values`` are its fields."""
    origin = Origin(
        values.pop("run", "run"),
        values.pop("run_id", RUN_ID),
        values.pop("checkpoint", folder.name),
    )
    values = {"world_size": 1, "steps_done": 7, "metrics": {}} | values
    files = fingerprints(folder, names)
    (folder / manifest_name(rank)).write_bytes(sealed(origin, files, rank=rank, **values))
