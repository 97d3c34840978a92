"""The project's code as it travels to a cluster."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ltm_platform.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable

PACKAGES = ("ltm", "ltm_platform")
LARGEST_BYTES = 100 * 1024**2
"""What a cluster's dashboard takes."""
NAMED = 5
LEFT_OUT = ("__pycache__", ".git", "mlruns", "mlartifacts", "wandb", "checkpoints")
"""Folders that hold no code."""
NO_CODE = frozenset(
    [
        ".pyc",
        ".db",
        ".log",
        ".parquet",
        ".safetensors",
        ".pt",
        ".pth",
        ".ckpt",
        ".onnx",
        ".npy",
        ".npz",
        ".tar",
        ".tgz",
        ".gz",
        ".zip",
        ".jpg",
        ".jpeg",
        ".png",
    ]
)


@dataclass(frozen=True, slots=True)
class CodeFile:
    path: Path
    to: Path
    """Below the package's root."""
    size: int


def code_files(packages: Iterable[Path] | None = None) -> list[CodeFile]:
    """Every file of the packages that is neither data nor a store, whether tracked by git or not.

    Raises:
        UserError: they are more than a cluster takes; the largest are named.
    """
    found = []
    for package in packages or map(_folder_of, PACKAGES):
        for path in sorted(package.rglob("*")):
            inside = path.relative_to(package)
            if path.is_symlink() or not path.is_file() or path.suffix.lower() in NO_CODE:
                continue
            if any(part in LEFT_OUT for part in inside.parts[:-1]):
                continue
            found.append(CodeFile(path, package.name / inside, path.stat().st_size))
    total = sum(file.size for file in found)
    if total > LARGEST_BYTES:
        largest = sorted(found, key=lambda file: -file.size)[:NAMED]
        named = ", ".join(f"{file.path} ({_mib(file.size)})" for file in largest)
        raise UserError(
            f"the code is {_mib(total)}, but a cluster takes {_mib(LARGEST_BYTES)}: move data "
            f"out of it; the largest files are {named}"
        )
    return found


def write_package(folder: Path) -> None:
    """Copy the code into ``folder``, from which both packages can then be imported.

    Raises:
        UserError: as `code_files`.
    """
    for file in code_files():
        target = folder / file.to
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file.path, target)


def _folder_of(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


def _mib(size: int) -> str:
    return f"{size / 1024**2:.1f} MiB"
