"""Ray Train's record of a run's checkpoints, a JSON file in the run's storage.

`ray.train.Result.from_path` reads it too, but in the order of the score, without the steps between
validations, and with all of Ray imported; nothing public changes it. `ray_train.checkpoint_record`
writes one.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

RECORD_FILE = "checkpoint_manager_snapshot.json"
FOLDER_PREFIX = "checkpoint_"
"""Of the name of every checkpoint's folder, beside the record."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A checkpoint that was stored."""

    name: str
    """Of its folder."""
    metrics: dict[str, float]


class _Result(BaseModel):
    model_config = ConfigDict(strict=True)

    checkpoint_dir_name: Annotated[str, StringConstraints(pattern=rf"^{FOLDER_PREFIX}[\w.-]+$")]
    metrics: dict[str, float]


class _Record(BaseModel):
    model_config = ConfigDict(strict=True)

    checkpoint_results: list[_Result]
    checkpoint_report_indices: list[int]
    latest_checkpoint_result: _Result | None


def read_record(text: bytes) -> list[Recorded]:
    """The checkpoints of a record, the oldest first; Ray Train resumes from the last.

    Raises:
        ValueError: it is no such record, or says that Ray Train would resume from another one.
    """
    record = _Record.model_validate_json(text)
    pairs = zip(record.checkpoint_report_indices, record.checkpoint_results, strict=True)
    results = [result for _, result in sorted(pairs, key=lambda pair: pair[0])]
    found = [Recorded(result.checkpoint_dir_name, result.metrics) for result in results]
    latest = record.latest_checkpoint_result
    if (latest and latest.checkpoint_dir_name) != (found[-1].name if found else None):
        raise ValueError("its latest checkpoint is not the last that was reported")
    return found


def new_folder_name() -> str:
    """The name of a checkpoint's folder, as Ray Train would choose it now."""
    return f"{FOLDER_PREFIX}{datetime.now():%Y-%m-%d_%H-%M-%S.%f}"
