"""Who may read what runs write: their user alone, or a group that is named."""

from __future__ import annotations

import grp
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ltm_platform.errors import UserError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GROUP_VARIABLE = "LTM_PLATFORM_GROUP"
"""The group of all that is made here; ``cluster.group`` of a job comes first."""
_PRIVATE, _SHARED = 0o077, 0o007
_SET_GROUP = 0o2000
"""Of a folder: what is made in it gets its group."""


def group() -> int | None:
    """The id of the group that shares what is made; None: nobody does.

    Raises:
        UserError: there is no such group, or this user is none of it.
    """
    name = os.environ.get(GROUP_VARIABLE)
    if not name:
        return None
    try:
        found = grp.getgrnam(name)
    except KeyError:
        known = [one.gr_name for one in grp.getgrall()]
        raise UserError(
            f"the group {name!r} (cluster.group or {GROUP_VARIABLE}) is not known on this "
            f"machine{nearest(name, known)}"
        ) from None
    if os.geteuid() and found.gr_gid not in (os.getegid(), *os.getgroups()):
        raise UserError(
            f"the group {name!r} (cluster.group or {GROUP_VARIABLE}) is none of this user's"
        )
    return found.gr_gid


def set_umask(wanted: str | None) -> int:
    """What this process makes from now on is for its user alone, or for the group as well.

    Returns the umask there was. UserError as of `group`.
    """
    if wanted:
        os.environ[GROUP_VARIABLE] = wanted
    return os.umask(_PRIVATE if group() is None else _SHARED)


@contextmanager
def private_files(wanted: str | None) -> Iterator[None]:
    """`set_umask` for the block, and for the processes that start in it."""
    named = os.environ.get(GROUP_VARIABLE)
    try:
        before = set_umask(wanted)
        try:
            yield
        finally:
            os.umask(before)
    finally:
        if wanted:
            os.environ.pop(GROUP_VARIABLE)
            if named:
                os.environ[GROUP_VARIABLE] = named


def make_folder(folder: Path) -> None:
    """Make it, and those above it that are missing, for this user alone or for the group; one that
    is there is left as it is.

    Raises:
        OSError: it cannot be made.
        UserError: as of `group`.
    """
    missing = []
    for path in (folder, *folder.parents):
        if path.exists():
            break
        missing.append(path)
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        share(path)
    folder.mkdir(exist_ok=True)  # what is there may be no folder


def share(path: Path) -> None:
    """Give a new file or folder the mode and the group that all have which are made here."""
    shared = group()
    mode = 0o700 if path.is_dir() else 0o600
    if shared is not None:
        os.chown(path, -1, shared)
        mode |= mode >> 3 | (_SET_GROUP if path.is_dir() else 0)
    path.chmod(mode)
