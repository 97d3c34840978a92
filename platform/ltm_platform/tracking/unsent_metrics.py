"""What a run could not record before it ended, kept in its folder until it is resumed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ltm_platform.errors import UserError
from ltm_platform.storage.files import written_whole

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from ltm_platform.tracking.metric_writer import Row

_FILE = "unrecorded.json"


def save(rows: Iterable[Row], folder: Path) -> Path:
    """Returns the file."""
    with written_whole(folder / _FILE) as part:
        part.write_text(json.dumps([dict(row) for row in rows]))
    return folder / _FILE


def load(folder: Path) -> list[Row]:
    """What `save` wrote, or nothing.

    Raises:
        UserError: it is damaged.
    """
    from mlflow.entities import Metric, RunTag
    from mlflow.exceptions import MlflowException

    if not (folder / _FILE).exists():
        return []
    try:
        rows = json.loads((folder / _FILE).read_bytes())
        return [Metric.from_dictionary(row) if "step" in row else RunTag(**row) for row in rows]
    except (MlflowException, ValueError, TypeError, KeyError):
        raise UserError(
            f"{folder / _FILE} is damaged, which holds metrics that could not be recorded: remove "
            "it to go on without them"
        ) from None


def remove(folder: Path) -> None:
    (folder / _FILE).unlink(missing_ok=True)
