"""Folders on the user's machine: runs, the tracking store, cached data."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import platformdirs

from ltm_platform.storage import addresses

HOME_VARIABLE = "LTM_PLATFORM_HOME"


def home() -> Path:
    """Runs and the embedded tracking store; ``LTM_PLATFORM_HOME`` moves it."""
    override = os.environ.get(HOME_VARIABLE)
    return (
        Path(override).resolve() if override else Path(platformdirs.user_data_dir("ltm-platform"))
    )


def machine() -> Path:
    """What is noted of this machine's processes, in a home that several machines may share."""
    return home() / "machines" / platform.node()


def cache() -> Path:
    """Data sets written once and read by every run; safe to delete."""
    if os.environ.get(HOME_VARIABLE):
        return home() / "cache"
    return Path(platformdirs.user_cache_dir("ltm-platform"))


def shown(path: Path | str) -> str:
    """A path, or an address that holds one, as people write it: with ``~`` for the user's home,
    and of an address what may be shown."""
    text = addresses.shown(path) if isinstance(path, str) and "://" in path else str(path)
    return text.replace(f"{Path.home()}{os.sep}", f"~{os.sep}")


def runs() -> Path:
    """One folder a run, named after it."""
    return home() / "runs"
