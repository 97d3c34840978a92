"""Ray Train's record of a run's checkpoints, a JSON file in the run's storage.

`ray.train.Result.from_path` reads it too, but in the order of the score, without the steps between
validations, and with all of Ray imported; nothing public changes it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection

RECORD_FILE = "checkpoint_manager_snapshot.json"
FOLDER_PREFIX = "checkpoint_"
"""Of the name of every checkpoint's folder, beside the record."""
_RESULTS, _INDICES = "checkpoint_results", "checkpoint_report_indices"
_LATEST = "latest_checkpoint_result"
_NAME, _METRICS = "checkpoint_dir_name", "metrics"


@dataclass(frozen=True, slots=True)
class Recorded:
    """A checkpoint that was stored."""

    name: str
    """Of its folder."""
    metrics: dict[str, float]


def read_record(text: bytes) -> list[Recorded]:
    """The checkpoints of a record, the oldest first."""
    pairs = sorted(_pairs(json.loads(text)), key=lambda pair: pair[0])
    return [Recorded(result[_NAME], result[_METRICS]) for _, result in pairs]


def drop_from_record(text: bytes, names: Collection[str], last: str) -> bytes:
    """The record without the checkpoints ``names``; Ray Train resumes from ``last``."""
    state = json.loads(text)
    kept = [pair for pair in _pairs(state) if pair[1][_NAME] not in names]
    state[_INDICES] = [index for index, _ in kept]
    state[_RESULTS] = [result for _, result in kept]
    state[_LATEST] = next(result for _, result in kept if result[_NAME] == last)
    return json.dumps(state).encode()


def _pairs(state: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    """Each result with the number of its report."""
    return list(zip(state[_INDICES], state[_RESULTS], strict=True))


def new_folder_name() -> str:
    """The name of a checkpoint's folder, as Ray Train would choose it now."""
    return f"{FOLDER_PREFIX}{datetime.now():%Y-%m-%d_%H-%M-%S.%f}"
