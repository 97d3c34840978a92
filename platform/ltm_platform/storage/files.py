"""Atomic writes, and names of files that several processes use."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from ltm_platform.errors import UserError
from ltm_platform.interrupts import interrupts_held

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from matplotlib.figure import Figure

_PART = ".part"
STOP_FILE = ".stop"
"""In a run's folder: the run is to save and end."""
BAD_IMAGES_FILE = "bad_images.json"
"""In a run's folder and among its artifacts: what could not be decoded, by part of the data."""
SWEEP_FILE = "sweep.json"
"""In the folder of a sweep: its specification. Trials lie in folders of their own below it."""
BEST_FILE = "best.yaml"
"""In the folder of a sweep: the best trial as a job file."""
PICTURE_FILE = "pareto.png"
"""In the folder of a sweep: its trade-offs."""


def check_writable(path: Path, option: str, *, makes_folder: bool = False) -> None:
    """Raises: UserError: the file, or new folder, that ``option`` names cannot be written; nothing
    is.
    """
    folder = path.absolute().parent
    if makes_folder and path.exists():
        raise UserError(f"{option} is {str(path)!r}, which is there already: name a new folder")
    if path.is_dir():
        raise UserError(f"{option} is {str(path)!r}, which is a folder: name a file in it")
    if not folder.is_dir():
        raise UserError(f"{option} is {str(path)!r}, but there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise UserError(f"{option} is {str(path)!r}, but the folder {folder} cannot be written to")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A file, or folder, to write beside ``path``, with the same ending, which takes its place at
    the end.

    An error in the block leaves what was at ``path`` as it was.
    """
    part = path.with_name(f".{path.stem}.{os.getpid()}{_PART}{path.suffix}")
    try:
        yield part
        part.replace(path)
    finally:
        _remove(part)


def save_figure(figure: Figure, to: Path | IO[bytes], **options: Any) -> None:
    """Draw a figure into a file; matplotlib would make an error of its own of an interrupt."""
    with interrupts_held():
        figure.savefig(to, **options)


def remove_parts(folder: Path, below: str = ".") -> None:
    """What processes that were killed left of `written_whole`, in the folders ``below`` this one
    that match; call it where nobody else writes."""
    for part in folder.glob(f"{below}/.*{_PART}*"):
        _remove(part)


def _remove(part: Path) -> None:
    if part.is_dir():
        shutil.rmtree(part)
    else:
        part.unlink(missing_ok=True)
