"""Temporary folders that go however their block ends."""

from __future__ import annotations

import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from tempfile import gettempdir
from typing import TYPE_CHECKING

from ltm_platform.interrupts import interrupts_held

if TYPE_CHECKING:
    from collections.abc import Iterator


def temporary_root() -> Path:
    """Where temporary files are. A process first tries the place with a file of a moment, which an
    interrupt then would leave there."""
    with interrupts_held():
        return Path(gettempdir())


@contextmanager
def temporary_folder(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """A folder that is removed when the block ends, below ``parent`` or among temporary files.

    The standard library's stays when an interrupt hits its making, and in part when one hits its
    removal.
    """
    folder = (parent or temporary_root()) / f"{prefix}{token_hex(16)}"
    try:
        folder.mkdir(mode=0o700)
        yield folder
    finally:
        try:
            _remove(folder)
        except BaseException:
            _remove(folder)
            raise


def _remove(folder: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)
