"""Checkpoint folders: the files in one, and whether it is whole and in its place.

Every rank seals its own files with a manifest that says which run and which step they are of, so a
file that is missing, truncated or changed, and a manifest that is, is recognised before anything is
loaded. docs/recovery.md describes the format.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import safe_open

from ltm_platform.errors import UserError, first_invalid
from ltm_platform.interrupts import interrupts_held
from ltm_platform.job import JobSpec
from ltm_platform.storage.locations import shown
from ltm_platform.storage.path import StoragePath, storage_path

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from pathlib import Path

WEIGHTS_FILE = "model.safetensors"
EMA_FILE = "model_ema.safetensors"
JOB_FILE = "job.yaml"
PROGRESS_FILE = "progress.json"
CONFUSION_FILE = "confusion.safetensors"
"""``counts`` of the validation images, int32 [classes, classes]: true by predicted class."""

CLASSES_FILE = "classes.json"
"""The names of the classes by their labels, of weights that are kept apart from their data."""

FORMAT = 2
UNSEALED_FORMAT = 1
"""Of version 0.1: a manifest that has no checksum of its own and names no run."""
FORMAT_KEY = "ltm.checkpoint_format"
FILE_METADATA = {FORMAT_KEY: str(FORMAT)}
"""Of every safetensors file: a checkpoint without its seals is not taken for an older one."""

_MANIFEST = re.compile(r"manifest_rank\d+\.json")
_OPTIONAL = (EMA_FILE, CONFUSION_FILE, CLASSES_FILE)
"""Files that are read where they are there."""
_ALIKE = ("format", "run", "run_id", "checkpoint", "content", "world_size", "steps_done")
"""What the manifests of all ranks have in common."""
_CHUNK = 1 << 20


class DamagedCheckpoint(UserError):  # noqa: N818 - a finding about a folder
    """A checkpoint's folder is not what was written; one sentence names the file."""


class IncompleteCheckpoint(DamagedCheckpoint):
    """A rank's manifest is not there, as in a folder that was never written to the end."""


class ForeignCheckpoint(UserError):  # noqa: N818 - a finding about a folder
    """A checkpoint's folder is not where it was written."""


class Manifest(BaseModel):
    """The files that one rank wrote."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    format: int
    rank: int = Field(ge=0)
    world_size: int = Field(ge=1)
    steps_done: int = Field(ge=0)
    """Optimizer steps since the start of training."""
    files: dict[str, tuple[int, int]]
    """Path inside the folder -> bytes, CRC-32."""


class Sealed(Manifest):
    """A manifest with a checksum of its own."""

    run: str
    run_id: str
    checkpoint: str
    """These three as in `Origin`."""
    content: Literal["training", "weights"]
    """All that training continues from, or a copy of the weights alone."""
    metrics: dict[str, float]
    """Of validation, on rank 0; empty for a checkpoint written within an epoch."""
    seal: str
    """SHA-256 of the other fields as JSON: keys sorted, ASCII, no spaces."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a checkpoint belongs."""

    run: str
    run_id: str
    """Of the run in MLflow."""
    checkpoint: str
    """The name of the folder, in the run's."""


class _LaterFormatError(ValueError):
    """The number of a format that this version does not know."""


def manifest_name(rank: int) -> str:
    return f"manifest_rank{rank}.json"


def sealed(
    origin: Origin,
    files: Mapping[str, tuple[int, int]],
    *,
    rank: int,
    world_size: int,
    steps_done: int,
    metrics: Mapping[str, float],
    content: Literal["training", "weights"] = "training",
) -> bytes:
    """The manifest of a rank that wrote ``files``, as it is stored."""
    values = {
        **asdict(origin),
        "format": FORMAT,
        "rank": rank,
        "world_size": world_size,
        "steps_done": steps_done,
        "files": dict(files),
        "content": content,
        "metrics": {key: float(value) for key, value in metrics.items()},
    }
    return _canonical(values | {"seal": _seal(values)})


def _seal(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(values)).hexdigest()


def _canonical(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode("ascii")


def fingerprints(folder: Path, names: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Bytes and CRC-32 of files in ``folder``."""
    return {name: ((folder / name).stat().st_size, _crc32(folder / name)) for name in names}


def holds_manifest(folder: Path) -> bool:
    """Whether a rank sealed its files in ``folder``."""
    return bool(_manifests(storage_path(folder)))


def read_manifest(folder: Path | StoragePath, rank: int = 0) -> Manifest:
    """One rank's manifest, which is whole.

    Raises:
        UserError: ``folder`` is no checkpoint of ours, of a later format, or the manifest is
            damaged.
    """
    where = folder if isinstance(folder, StoragePath) else storage_path(folder)
    name = manifest_name(rank)
    try:
        text = (where / name).read()
    except (FileNotFoundError, NotADirectoryError):
        if not (where / WEIGHTS_FILE).exists() and not _manifests(where):
            problem = f"is not a checkpoint of ltm-platform: {name} is missing"
            raise IncompleteCheckpoint(f"{shown(str(where))} {problem}") from None
        raise damaged(where, f"{name} is missing", IncompleteCheckpoint) from None
    try:
        manifest = _parsed(text)
    except _LaterFormatError as error:
        raise UserError(
            f"the checkpoint {shown(str(where))} has format {error}, but this version reads "
            f"formats {UNSEALED_FORMAT} and {FORMAT}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise damaged(where, f"{name}: {_reason(error)}") from None
    if manifest.rank != rank:
        raise damaged(where, f"{name} is that of rank {manifest.rank}")
    return manifest


def _parsed(text: bytes) -> Manifest:
    """Raises: ValueError: it is damaged, or `_LaterFormatError`."""
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError("it is no JSON object")
    version = values.get("format")
    if type(version) is not int:
        raise ValueError("it has no format")
    if version == UNSEALED_FORMAT:
        return Manifest.model_validate_json(text)
    seal = values.pop("seal", None)
    if seal is not None and seal != _seal(values):
        raise ValueError("it has changed since it was written")
    if version != FORMAT:
        raise _LaterFormatError(version)
    if seal is None:
        raise ValueError("its seal is missing")
    return Sealed.model_validate_json(text)


def read_first(folder: Path | StoragePath, *, run_id: str | None, name: str | None) -> Manifest:
    """Rank 0's manifest, when those of all ranks are there. It alone is read.

    Args:
        run_id: the run in MLflow that it has to be of; None for any.
        name: what the folder was called when it was written; None for anything.

    Raises:
        UserError: it is damaged, or of another run or folder; or another one is missing.
    """
    where = folder if isinstance(folder, StoragePath) else storage_path(folder)
    first, found = read_manifest(where), _manifests(where)
    for rank in range(first.world_size):
        if manifest_name(rank) not in found:
            raise damaged(where, f"{manifest_name(rank)} is missing", IncompleteCheckpoint)
    surplus = sorted(found - {manifest_name(rank) for rank in range(first.world_size)})
    if surplus:
        problem = f"{surplus[0]} is there, but {manifest_name(0)} is of {first.world_size} workers"
        raise damaged(where, problem)
    if isinstance(first, Sealed):
        if run_id and first.run_id != run_id:
            problem = f"{manifest_name(0)} is of another run, {first.run!r} ({first.run_id})"
            raise damaged(where, problem, ForeignCheckpoint)
        if name and first.checkpoint != name:
            problem = f"{manifest_name(0)} is of another folder, {first.checkpoint!r}"
            raise damaged(where, problem, ForeignCheckpoint)
    return first


def check(
    folder: Path,
    *,
    run_id: str | None = None,
    name: str | None = None,
    only: Collection[str] | None = None,
) -> Manifest:
    """Rank 0's manifest, when all ranks' agree and every file is there and unchanged.

    Args:
        only: files to look at; None for all of them.

    The others are as of `read_first`.

    Raises:
        UserError: the folder is not a whole checkpoint; the sentence names the first bad file.
    """
    first = read_first(folder, run_id=run_id, name=name)
    listed: set[str] = set()
    for rank in range(first.world_size):
        manifest = read_manifest(folder, rank) if rank else first
        _check_alike(folder, first, manifest)
        listed |= manifest.files.keys()
        for file, (size, crc) in manifest.files.items():
            if only is None or file in only:
                _check_file(folder, file, size, crc)
    if not isinstance(first, Sealed):
        _check_unsealed(folder, first)
    for file in _OPTIONAL:
        if file not in listed and (folder / file).exists():
            raise damaged(folder, f"{file} is there, but no manifest lists it")
    return first


def _check_alike(folder: Path, first: Manifest, other: Manifest) -> None:
    for key in _ALIKE:
        own, its = getattr(first, key, None), getattr(other, key, None)
        if own != its:
            problem = f"{key} is {own!r} in {manifest_name(0)}, but {its!r} in"
            raise damaged(folder, f"{problem} {manifest_name(other.rank)}")


def read_file(folder: StoragePath, name: str, of: Manifest) -> bytes:
    """A file that a manifest lists, unchanged.

    Raises:
        UserError: it is damaged.
    """
    try:
        content = (folder / name).read()
    except FileNotFoundError:
        raise damaged(folder, f"{name} is missing") from None
    if (len(content), zlib.crc32(content)) != of.files.get(name):
        raise damaged(folder, f"{name} has changed since it was written")
    return content


def _check_file(folder: Path, name: str, size: int, crc: int) -> None:
    path = folder / name
    if not path.is_file():
        problem = f"{name} is missing"
    elif path.stat().st_size != size:
        problem = f"{name} has {path.stat().st_size:,} bytes instead of {size:,}"
    elif _crc32(path) != crc:
        problem = f"{name} has changed since it was written"
    else:
        return
    raise damaged(folder, problem)


def _check_unsealed(folder: Path, manifest: Manifest) -> None:
    """What can be known without a seal."""
    for name in (WEIGHTS_FILE, JOB_FILE):
        if name not in manifest.files:
            raise damaged(folder, f"{manifest_name(0)} lists no {name}")
    if _is_marked(folder):
        raise damaged(folder, f"{manifest_name(0)} has lost its seal")


def check_weights(
    folder: Path,
    *,
    run_id: str | None = None,
    name: str | None = None,
    only: Collection[str] | None = None,
) -> str | None:
    """Check the weights in a folder: a checkpoint, or a copy of its weights.

    The arguments are as of `check`.

    Returns what could not be checked, in words; None if all was.

    Raises:
        UserError: it is damaged.
    """
    if holds_manifest(folder) or (folder / PROGRESS_FILE).exists() or _is_marked(folder):
        manifest = check(folder, run_id=run_id, name=name, only=only)
        return None if isinstance(manifest, Sealed) else unsealed_notice(folder)
    return f"{shown(str(folder))} has no manifest: its weights cannot be checked"


def unsealed_notice(folder: Path | StoragePath) -> str:
    return (
        f"the checkpoint {shown(str(folder))} is of version 0.1: its files are unchanged, "
        "but its manifest is not sealed"
    )


def _is_marked(folder: Path) -> bool:
    """Whether the weights say that they were stored with a seal."""
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        return False
    try:
        with interrupts_held(), safe_open(str(path), framework="numpy") as weights:
            return FORMAT_KEY in (weights.metadata() or {})
    except Exception as error:  # whatever safetensors makes of a foreign file
        raise damaged(folder, f"{WEIGHTS_FILE} cannot be read as weights: {error}") from None


def damaged(
    folder: Path | StoragePath, problem: str, kind: type[UserError] = DamagedCheckpoint
) -> UserError:
    """The error for a checkpoint of which ``problem`` is true."""
    return kind(f"the checkpoint {shown(str(folder))} is damaged: {problem}")


def _reason(error: Exception) -> str:
    """In one line."""
    if isinstance(error, ValidationError):
        return ": ".join(filter(None, first_invalid(error)))
    if isinstance(error, UnicodeDecodeError | json.JSONDecodeError):
        return f"it is no JSON: {error}"
    return str(error)


def _manifests(folder: StoragePath) -> set[str]:
    """The names of all ranks' manifests in ``folder``."""
    return {name for name, _ in folder.files() if _MANIFEST.fullmatch(name)}


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
