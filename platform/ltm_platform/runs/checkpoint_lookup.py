"""What a command's RUN|CHECKPOINT means: the folder of stored weights, and the run they are of."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from ltm.errors import quoted
from ltm_platform import tracking
from ltm_platform.errors import UserError
from ltm_platform.storage import contact, locations
from ltm_platform.storage.checkpoints import choose
from ltm_platform.storage.manifest import JOB_FILE, WEIGHTS_FILE, check_weights
from ltm_platform.storage.run_folder import RunFolder
from ltm_platform.temporary import temporary_folder

if TYPE_CHECKING:
    from ltm_platform.job import JobSpec

_WEIGHTS = {".pt", ".pth", ".bin", ".ckpt", ".safetensors"}
"""Endings of files with weights."""
_log = logging.getLogger(__name__)


def find_checkpoint(target: str, *, last: bool, uri: str | None) -> Path:
    """The folder of a checkpoint: itself, or the best or the last of a run.

    Where the run's folder is not here, its weights come from MLflow, without what resuming needs.

    Raises:
        UserError: no such run or checkpoint, or a damaged one.
    """
    folder = Path(target).expanduser()
    if (folder / WEIGHTS_FILE).is_file() and (folder / JOB_FILE).is_file():
        found = folder.resolve()
        run_id = RunFolder(found.parent).run_id
        unchecked = check_weights(found, run_id=run_id, name=found.name if run_id else None)
    elif folder.is_dir():
        raise UserError(
            f"{target} is not a checkpoint of ltm-platform: "
            f"it holds no {WEIGHTS_FILE} with a {JOB_FILE}"
        )
    else:
        store = tracking.tracking_uri(uri)
        record = tracking.find_run(store, target)
        own = _stored(record, last=last)
        # What lies in the run's storage has been looked through.
        files: tuple[str, ...] | None = () if own else None
        own = own or _fetched(record, store, "last" if last else "best")
        if own is None and (trial := record.tags.get(tracking.BEST_TRIAL_TAG)):
            raise UserError(f"{target!r} is a sweep: name a trial of it, the best is {trial!r}")
        if own is None:
            kind = "checkpoint" if last else "validated checkpoint"
            raise UserError(
                f"the run {target!r} has no {kind}, neither in its folder {record.folder} "
                f"on this machine nor among its artifacts in MLflow"
            )
        found = own.resolve()
        unchecked = check_weights(found, run_id=record.run_id, only=files)
    if unchecked:
        _log.warning("%s", unchecked)
    return found


def with_run_weights(job: JobSpec) -> JobSpec:
    """The job with a checkpoint's folder where ``model.checkpoint`` names a run: its best one.

    Raises:
        UserError: there is no such run.
    """
    key, value = "model.checkpoint", job.model.checkpoint
    if value is None or Path(value).expanduser().exists() or _is_path(value):
        return job
    try:
        folder = find_checkpoint(value, last=False, uri=job.tracking.uri)
    except UserError as error:
        sentence = f"{key} is {quoted(value)}, but there is no such file or folder, and {error}"
        raise job.error(key, sentence) from None
    return job.replace(key, str(folder))


def _is_path(text: str) -> bool:
    """Whether it cannot be meant as a run's name."""
    return "/" in text or Path(text).suffix in _WEIGHTS


def _stored(record: tracking.RunRecord, *, last: bool) -> Path | None:
    """In the run's storage; None if there is none of that kind or the storage cannot be reached."""
    if not record.folder:
        return None
    folder = RunFolder(Path(record.folder))
    # An object store that does not answer is no fault: MLflow has the weights, too.
    if contact.problem_of(folder.storage_root):
        return None
    try:
        chosen = choose(folder, last=last, run_id=record.run_id)
        return chosen.checked(record.run_id) if chosen else None
    except OSError:
        return None


def tracked_folder(kind: str) -> str:
    """Where a run's weights lie among its artifacts: its ``best`` or its ``last``."""
    return f"checkpoints/{kind}"


def checkpoint_tag(kind: str) -> str:
    """The tag that has the folder of a run's ``best`` or ``last`` checkpoint."""
    return f"ltm.checkpoint_{kind}"


def _fetched(record: tracking.RunRecord, store: str, kind: str) -> Path | None:
    """A copy of a run's weights in MLflow, made again for as long as the run may change them."""
    folder = fetched_copies(record) / kind
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if record.status == "FINISHED" and _is_whole(folder):
            return folder
        with temporary_folder("tmp", folder.parent) as part:
            copy = tracking.fetch_files(store, record.run_id, tracked_folder(kind), part)
            if copy is None:
                return None
            shutil.rmtree(folder, ignore_errors=True)
            copy.rename(folder)
    return folder


def _is_whole(folder: Path) -> bool:
    """Whether there is a copy that is as it was fetched."""
    try:
        check_weights(folder)
    except UserError:
        return False
    return folder.is_dir()


def fetched_copies(record: tracking.RunRecord) -> Path:
    """Where copies of a run's weights are, that came from MLflow."""
    return locations.cache() / "checkpoints" / record.run_id


def run_of(checkpoint: Path, uri: str | None) -> tracking.RunRecord | None:
    """The recorded run in whose folder a checkpoint lies, or of which it is a copy."""
    for record in tracking.list_runs(tracking.tracking_uri(uri)):
        folders = [fetched_copies(record), *([Path(record.folder)] if record.folder else [])]
        if checkpoint.parent in [folder.resolve() for folder in folders]:
            return record
    return None


def original_name(checkpoint: Path, record: tracking.RunRecord) -> str:
    """What a run's checkpoint is called in the run's folder, where this is a copy of it."""
    if checkpoint.parent != fetched_copies(record).resolve():
        return checkpoint.name
    return Path(record.tags.get(checkpoint_tag(checkpoint.name), checkpoint.name)).name
