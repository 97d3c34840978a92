"""The standard library's temporary folders, made to go however their block ends."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def temporary_folder(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """A folder that is removed when the block ends, below ``parent`` or among temporary files.

    An interrupt that hits the clean-up itself would else leave what is not removed yet.
    """
    folder = TemporaryDirectory(prefix=prefix, dir=parent)
    try:
        yield Path(folder.name)
    finally:
        try:
            folder.cleanup()
        except BaseException:
            folder.cleanup()
            raise
