"""What a run could not record before it ended, kept in its folder until it is resumed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from ltm_platform.tracking.metric_writer import Row

_FILE = "unrecorded.json"


def save(rows: Iterable[Row], folder: Path) -> Path:
    """Returns the file."""
    (folder / _FILE).write_text(json.dumps([dict(row) for row in rows]))
    return folder / _FILE


def load(folder: Path) -> list[Row]:
    """What `save` wrote, or nothing."""
    from mlflow.entities import Metric, RunTag

    if not (folder / _FILE).exists():
        return []
    rows = json.loads((folder / _FILE).read_text())
    return [Metric.from_dictionary(row) if "step" in row else RunTag(**row) for row in rows]


def remove(folder: Path) -> None:
    (folder / _FILE).unlink(missing_ok=True)
