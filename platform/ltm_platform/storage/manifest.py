"""Checkpoint folders: the files in one, and whether it is complete.

Every rank seals its own files with a manifest, so a folder with a file that is missing,
truncated or changed is recognised before anything is loaded.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ltm_platform.errors import UserError
from ltm_platform.job import JobSpec

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

WEIGHTS_FILE = "model.safetensors"
EMA_FILE = "model_ema.safetensors"
JOB_FILE = "job.yaml"
CONFUSION_FILE = "confusion.safetensors"
"""``counts`` of the validation images, int32 [classes, classes]: true by predicted class."""

CLASSES_FILE = "classes.json"
"""The names of the classes by their labels, of weights that are kept apart from their data."""

_FORMAT = 1
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files that one rank wrote."""

    rank: int
    world_size: int
    steps_done: int
    """Optimizer steps since the start of training."""
    files: dict[str, tuple[int, int]]
    """Path inside the folder -> bytes, CRC-32."""
    format: int = _FORMAT


def _path(folder: Path, rank: int) -> Path:
    return folder / f"manifest_rank{rank}.json"


def seal(
    folder: Path, names: Iterable[str], *, rank: int, world_size: int, steps_done: int
) -> None:
    """Write the manifest of a rank that has written the files ``names`` into ``folder``."""
    files = {name: ((folder / name).stat().st_size, _crc32(folder / name)) for name in names}
    manifest = Manifest(rank, world_size, steps_done, files)
    _path(folder, rank).write_text(json.dumps(asdict(manifest)))


def holds_manifest(folder: Path) -> bool:
    """Whether the files in ``folder`` can be checked; weights copied elsewhere cannot."""
    return _path(folder, 0).exists()


def read_manifest(folder: Path, rank: int = 0) -> Manifest:
    """UserError when ``folder`` is no checkpoint of ours, or of another format."""
    try:
        values = json.loads(_path(folder, rank).read_text())
        manifest = Manifest(**values)
    except FileNotFoundError:
        missing = f"{_path(folder, rank).name} is missing"
        raise UserError(f"{folder} is not a checkpoint of ltm-platform: {missing}") from None
    except (ValueError, TypeError) as error:
        name = _path(folder, rank).name
        raise UserError(f"the checkpoint {folder} is damaged: {name}: {error}") from None
    if manifest.format != _FORMAT:
        raise UserError(
            f"the checkpoint {folder} has format {manifest.format}, "
            f"but this version reads format {_FORMAT}"
        )
    return manifest


def check(folder: Path) -> Manifest:
    """Rank 0's manifest, when every rank's files are there and unchanged.

    Raises:
        UserError: the folder is not a whole checkpoint; the sentence names the first bad file.
    """
    first = read_manifest(folder)
    for rank in range(first.world_size):
        for name, (size, crc) in read_manifest(folder, rank).files.items():
            path = folder / name
            if not path.is_file():
                problem = f"{name} is missing"
            elif path.stat().st_size != size:
                problem = f"{name} has {path.stat().st_size:,} bytes instead of {size:,}"
            elif _crc32(path) != crc:
                problem = f"{name} has changed since it was written"
            else:
                continue
            raise UserError(f"the checkpoint {folder} is damaged: {problem}")
    return first


def job_of(checkpoint: Path) -> JobSpec:
    """The job that a checkpoint was trained by, to build its network again.

    The first weights are left out: the checkpoint's own take their place.
    """
    job = JobSpec.load_stored(checkpoint / JOB_FILE)
    return job.replace("model.pretrained", False).replace("model.checkpoint", None)


def _crc32(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc
