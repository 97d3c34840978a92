"""Where a run comes from: who typed what, in which commit of which folder, with which versions."""

from __future__ import annotations

import getpass
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from ltm_platform import __version__
from ltm_platform.storage.addresses import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

COMMIT_TAG = "mlflow.source.git.commit"
DIRTY_TAG = "ltm.git_dirty"
"""Whether files that git knows differed from the commit."""
VERSIONS_TAG = "ltm.versions"
_PACKAGES = ("torch", "torchvision", "timm", "ray", "deepspeed", "mlflow")
_GIT_S = 5.0
_LONGEST = 2000  # characters of the command line


def provenance() -> dict[str, str]:
    """Tags of a run that this process makes, MLflow's own names where it has one."""
    return {
        "mlflow.source.name": command_line(sys.argv),
        "mlflow.source.type": "LOCAL",
        VERSIONS_TAG: ", ".join(_versions()),
        **_user(),
        **commit(Path.cwd()),
    }


def command_line(words: Sequence[str]) -> str:
    """As it was typed, without the keys and passwords of addresses in it."""
    name, *rest = words or [""]
    return shlex.join([Path(name).name, *map(_harmless, rest)])[:_LONGEST]


def _harmless(word: str) -> str:
    if "://" not in word:
        return word
    key, equals, value = word.partition("=")
    return shown(word) if "://" in key else f"{key}{equals}{shown(value)}"


def _versions() -> Iterator[str]:
    yield f"ltm-platform {__version__}"
    yield f"python {platform.python_version()}"
    for package in _PACKAGES:
        try:
            yield f"{package} {version(package)}"
        except PackageNotFoundError:
            continue


def _user() -> dict[str, str]:
    try:
        return {"mlflow.user": getpass.getuser()}
    except (KeyError, OSError):  # a container's user without a name
        return {}


def commit(folder: Path) -> dict[str, str]:
    """Tags of the git commit that a folder is in; none outside of a repository, or without git."""
    head = _git(folder, "rev-parse", "HEAD")
    if head is None:
        return {}
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    dirty = {} if changed is None else {DIRTY_TAG: str(bool(changed)).lower()}
    return {COMMIT_TAG: head, **dirty}


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            timeout=_GIT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
