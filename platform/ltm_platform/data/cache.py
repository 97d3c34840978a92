"""Copies of shards on a node's own disk, which all its processes share."""

from __future__ import annotations

import errno
import logging
import shutil
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from filelock import FileLock

from ltm_platform.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ltm_platform.storage.path import StoragePath

RESERVE_BYTES = 5 * 1024**3

logger = logging.getLogger(__name__)

_telling = threading.Lock()
_reported: set[Path] = set()


@dataclass(frozen=True, slots=True)
class ShardCache:
    """A folder of whole copies and nothing else; safe to delete while no process reads it."""

    folder: Path
    reserve: int = RESERVE_BYTES
    """Bytes of the disk that stay free; what does not fit is not copied."""

    def copy(
        self, shard: StoragePath, name: str, size: int, check: Callable[[Path], bool]
    ) -> Path | None:
        """The copy of ``shard``, made if there is none; None if there is no room for it.

        Of several that want it at once one copies, and the others wait for that.

        Args:
            name: of the copy; differs from that of any other content.
            size: of the shard in bytes.
            check: whether a new copy holds what it should; called once for all processes.

        Raises:
            UserError: the folder cannot be written to, or the shard is damaged.
            OSError: the shard cannot be read.
        """
        target = self.folder / name
        if _holds(target, size):
            return target
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(f"{target}.lock")
            lock.acquire()
        except OSError as error:
            raise UserError(
                f"data.cache is {str(self.folder)!r}, which cannot be written to on this node: "
                f"{error.strerror or error}"
            ) from None
        try:
            there = _holds(target, size) or self._fetch(shard, target, size, check)
            return target if there else None
        finally:
            lock.release()

    def _fetch(
        self, shard: StoragePath, target: Path, size: int, check: Callable[[Path], bool]
    ) -> bool:
        if shutil.disk_usage(self.folder).free < size + self.reserve:
            _warn_full(self.folder)
            return False
        part = target.with_suffix(".part")
        try:
            shard.fetch_file(part)
            if not _holds(part, size):
                raise UserError(f"{shard} is damaged: it has not the {size:,} bytes that it had.")
            if not check(part):
                raise UserError(f"{shard} is damaged: it has another checksum than its content.")
            part.replace(target)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            _warn_full(self.folder)
            return False
        finally:
            part.unlink(missing_ok=True)
        return True


def _warn_full(folder: Path) -> None:
    """Once in a process, however many of its threads read."""
    with _telling:
        if folder not in _reported:
            _reported.add(folder)
            logger.warning(
                "data.cache %s is full: shards without room there are read where they are", folder
            )


def _holds(path: Path, size: int) -> bool:
    """Whether the file is there, of this size."""
    try:
        return path.stat().st_size == size
    except OSError:
        return False
