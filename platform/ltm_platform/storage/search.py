"""Looking for images in a folder of unknown size: what is said meanwhile, when it is given up."""

from __future__ import annotations

import time
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import psutil

from ltm_platform.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MOST_WITHOUT_IMAGES = 1_000_000
"""Files to look at where fewer than one in a thousand is an image."""
FEWEST_IMAGES = 1e-3
SAY_EVERY_S = 5.0

_OF_THE_KERNEL = frozenset(
    {"proc", "sysfs", "devpts", "cgroup", "cgroup2", "securityfs", "debugfs", "tracefs", "bpf"}
)

_tell: ContextVar[Callable[[str], None] | None] = ContextVar("tell", default=None)


@contextmanager
def telling(tell: Callable[[str], None]) -> Iterator[None]:
    """A search in the block that takes long calls ``tell`` with a sentence, again and again."""
    token = _tell.set(tell)
    try:
        yield
    finally:
        _tell.reset(token)


def check_filesystem(root: Path) -> None:
    """Check that a folder holds files, not what the kernel shows as files.

    Raises:
        UserError: it does not.
    """
    mounts = {one.mountpoint: one.fstype for one in psutil.disk_partitions(all=True)}
    whole = root.resolve()
    kinds = (mounts[str(folder)] for folder in (whole, *whole.parents) if str(folder) in mounts)
    kind = next(kinds, "")
    if kind in _OF_THE_KERNEL:
        raise UserError(f"{root} is no folder of images: its files are the kernel's ({kind}).")


class Search:
    """Counts what is seen below a folder."""

    def __init__(self, root: Path | str) -> None:
        self._root = root
        self._files = self._images = 0
        self._tell = _tell.get()
        self._said = time.monotonic()

    def saw(self, files: int, images: int) -> None:
        """So many more files, so many of them images.

        Raises:
            UserError: this is no folder of images.
        """
        self._files += files
        self._images += images
        if self._files > MOST_WITHOUT_IMAGES and self._images < FEWEST_IMAGES * self._files:
            raise UserError(
                f"{self._root} is no folder of images: of its first {self._files:,} files "
                f"{self._images:,} are images."
            )
        if self._tell and time.monotonic() - self._said > SAY_EVERY_S:
            self._said = time.monotonic()
            self._tell(f"{self._root}: {self._files:,} files seen, {self._images:,} of them images")
