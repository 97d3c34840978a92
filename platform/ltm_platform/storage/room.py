"""Room on a disk: what is free, and failures to write that no other attempt mends."""

from __future__ import annotations

import errno
import os
import re
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ltm_platform.errors import RunError, UserError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM}
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
"""How libraries in Rust, safetensors among them, end the message of an error of the system."""


def free_bytes(folder: Path) -> int:
    """Bytes that this user may still write in ``folder``, or where it would be made."""
    existing = next(one for one in (folder, *folder.parents) if one.exists())
    return shutil.disk_usage(existing).free


def shown_bytes(count: int) -> str:
    """``12.3 MiB``, or with as many bytes as there are where that would be 0."""
    if count < 2**20:
        return f"{count:,} bytes"
    power, unit = (2**30, "GiB") if count >= 2**30 else (2**20, "MiB")
    return f"{count / power:,.1f} {unit}"


def lasting_errno(error: BaseException) -> int | None:
    """The system's number for a failure to write that another attempt would meet again.

    None: it is another failure.
    """
    seen: BaseException | None = error
    while seen is not None:
        found = _OS_ERROR.search(str(seen))
        number = seen.errno if isinstance(seen, OSError) else int(found[1]) if found else None
        if number in FULL | FORBIDDEN:
            return number
        seen = seen.__cause__ or seen.__context__
    return None


@contextmanager
def written_or_explained(folder: Path, needed: int) -> Iterator[None]:
    """A block that writes ``needed`` bytes into ``folder``.

    Raises:
        UserError: there is no room for them, or writing is forbidden; it names folder and bytes.
    """
    try:
        yield
    except Exception as error:
        number = lasting_errno(error)
        if number is None:
            raise
        reason = os.strerror(number)
        if number in FORBIDDEN:
            raise UserError(f"nothing can be written to {folder}: {reason}") from error
        raise UserError(
            f"there is no room in {folder}: {shown_bytes(needed)} are needed and "
            f"{shown_bytes(free_bytes(folder))} are free ({reason}); make room, or keep runs "
            f"elsewhere with cluster.storage"
        ) from error


@contextmanager
def full_disk_ends_run(folder: Path) -> Iterator[None]:
    """A block that writes what is recorded of the run in ``folder``.

    Raises:
        RunError: it cannot be written, and never will be.
    """
    try:
        yield
    except (RunError, UserError):
        raise
    except Exception as error:
        number = lasting_errno(error)
        if number is None:
            raise
        raise RunError(
            f"what is recorded of the run cannot be written: {os.strerror(number)}; "
            f"{shown_bytes(free_bytes(folder))} are free in {folder}"
        ) from error
