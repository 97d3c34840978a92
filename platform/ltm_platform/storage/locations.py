"""Folders on the user's machine: runs, the tracking store, cached data."""

from __future__ import annotations

import os
import re
from pathlib import Path

import platformdirs

HOME_VARIABLE = "LTM_PLATFORM_HOME"
_PASSWORD = re.compile(r"(?<=://)([^/@:\s]*):[^/@\s]+@")


def home() -> Path:
    """Runs and the embedded tracking store; ``LTM_PLATFORM_HOME`` moves it."""
    override = os.environ.get(HOME_VARIABLE)
    return (
        Path(override).resolve() if override else Path(platformdirs.user_data_dir("ltm-platform"))
    )


def cache() -> Path:
    """Data sets written once and read by every run; safe to delete."""
    if os.environ.get(HOME_VARIABLE):
        return home() / "cache"
    return Path(platformdirs.user_cache_dir("ltm-platform"))


def shown(path: Path | str) -> str:
    """A path, or an address that holds one, as people write it: with ``~`` for the user's home,
    and without the password of an address."""
    text = _PASSWORD.sub(r"\1:***@", str(path))
    return text.replace(f"{Path.home()}{os.sep}", f"~{os.sep}")


def has_password(address: str) -> bool:
    return bool(_PASSWORD.search(address))


def runs() -> Path:
    """One folder a run, named after it."""
    return home() / "runs"
