"""The project's code as it is sent to a cluster."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib.metadata import distribution
from typing import TYPE_CHECKING

from ltm import plugins
from ltm_platform.data.sources import ENTRY_POINTS as SOURCES
from ltm_platform.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

PACKAGES = ("ltm", "ltm_platform")
PLUGIN_GROUPS = (*plugins.GROUPS, SOURCES)
LARGEST_BYTES = 100 * 1024**2
"""The most that a cluster's dashboard accepts."""
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

    packages: folders, or modules of one file; ours and those with plugins, if left out.

    Raises:
        UserError: they are more than a cluster accepts; the largest are named.
    """
    found = []
    for package in packages or map(plugins.code_of, (*PACKAGES, *plugins.packages(PLUGIN_GROUPS))):
        for path in [package] if package.is_file() else sorted(package.rglob("*")):
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
    """Copy the code into ``folder``, from which all packages can then be imported, and their
    plugins be found.

    Raises:
        UserError: as `code_files`.
    """
    for file in code_files():
        target = folder / file.to
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file.path, target)
    for name in {plugin.distribution for plugin in plugins.plugins(PLUGIN_GROUPS)}:
        about = distribution(name)
        target = folder / f"{about.name}-{about.version}.dist-info"
        target.mkdir()
        for file_name in ("METADATA", "entry_points.txt"):
            (target / file_name).write_text(about.read_text(file_name) or "")


def _mib(size: int) -> str:
    return f"{size / 1024**2:.1f} MiB"
