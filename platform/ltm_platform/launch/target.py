"""What a command's RUN|CHECKPOINT means: the folder of stored weights, and the run they are of."""

from __future__ import annotations

from pathlib import Path

from ltm_platform import tracking
from ltm_platform.checkpoints import JOB_FILE, WEIGHTS_FILE, check, holds_manifest
from ltm_platform.errors import UserError
from ltm_platform.launch.folder import RunFolder
from ltm_platform.launch.history import best, stored


def find_checkpoint(target: str, *, last: bool, uri: str | None) -> Path:
    """The folder of a checkpoint: itself, or the best or the last of a run.

    Raises:
        UserError: no such run or checkpoint, or a damaged one.
    """
    folder = Path(target).expanduser()
    if (folder / WEIGHTS_FILE).is_file() and (folder / JOB_FILE).is_file():
        found = folder
    elif folder.is_dir():
        raise UserError(
            f"{target} is not a checkpoint of ltm-platform: "
            f"it holds no {WEIGHTS_FILE} with a {JOB_FILE}"
        )
    else:
        record = tracking.find_run(tracking.tracking_uri(uri), target)
        checkpoints = stored(RunFolder(Path(record.folder))) if record.folder else []
        chosen = (checkpoints[-1] if last else best(checkpoints)) if checkpoints else None
        if chosen is None:
            raise UserError(f"the run {target!r} has no validated checkpoint in {record.folder}")
        found = chosen.path
    if holds_manifest(found):
        check(found)
    return found.resolve()


def run_of(checkpoint: Path, uri: str | None) -> tracking.RunRecord | None:
    """The recorded run in whose folder a checkpoint lies."""
    runs = tracking.list_runs(tracking.tracking_uri(uri))
    return next(
        (r for r in runs if r.folder and Path(r.folder).resolve() == checkpoint.parent), None
    )
