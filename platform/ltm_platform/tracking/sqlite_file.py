"""The file of an sqlite store: made whole or not at all, and examined before MLflow opens it."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from filelock import FileLock

from ltm_platform.compat.mlflow import (
    DELETED,
    EXPERIMENT_QUERY,
    REVISION_QUERY,
    is_damaged,
    is_locked,
    make_tables,
    revisions,
)
from ltm_platform.errors import UserError
from ltm_platform.storage import locations, permissions

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = "sqlite:///"
LOCKED_S = 60.0
"""How long a lock that another program holds is waited for."""
_HEADER = b"SQLite format 3\0"
_HEADER_LENGTH = 100


def database_of(uri: str) -> Path | None:
    """The file of an sqlite store; None for any other store."""
    if not uri.startswith(PREFIX):
        return None
    return Path(uri.removeprefix(PREFIX).partition("?")[0])


def ensure(database: Path) -> None:
    """Make the store if there is none; two processes may do so at once, and be killed at it.

    Raises:
        UserError: it cannot be made, or what is there is no store that MLflow can open.
    """
    try:
        if not database.exists():
            _make(database)
    except OSError as error:
        raise UserError(
            f"the tracking store {locations.shown(database)} cannot be made: "
            f"{error.strerror or error}; {locations.HOME_VARIABLE}=FOLDER names another folder"
        ) from None
    examine(database)


def _make(database: Path) -> None:
    permissions.make_folder(database.parent)
    with FileLock(f"{database}.lock"):
        if database.exists():
            return
        for left in database.parent.glob(
            f".{database.name}.*.part"
        ):  # of a process that was killed
            left.unlink()
        part = database.with_name(f".{database.name}.{os.getpid()}.part")
        try:
            make_tables(part)
            permissions.share(part)
            _publish(part, database)
        finally:
            part.unlink(missing_ok=True)


def _publish(part: Path, database: Path) -> None:
    """Give a finished file its name, unless another program, that knows no lock, was faster."""
    try:
        os.link(part, database)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        part.rename(database)


def examine(database: Path) -> None:
    """Raises: UserError: the file is damaged, locked for too long, or not of this MLflow."""
    shown = locations.shown(database)
    try:
        with database.open("rb") as file:
            header = file.read(_HEADER_LENGTH)
        size = database.stat().st_size
    except OSError as error:
        raise UserError(f"the tracking store {shown} cannot be read: {error.strerror}") from None
    if not size:
        raise UserError(_broken(shown, "is empty (0 bytes)"))
    if not header.startswith(_HEADER):
        raise UserError(_broken(shown, "is no sqlite database"))
    page = int.from_bytes(header[16:18], "big")
    needed = int.from_bytes(header[28:32], "big") * (65536 if page == 1 else page)
    if len(header) < _HEADER_LENGTH or size < needed:
        raise UserError(_broken(shown, f"is cut off after {size:,} of {needed:,} bytes"))
    _check_schema(database, shown, [str(row[0]) for row in _asked(database, REVISION_QUERY)])


def _check_schema(database: Path, shown: str, found: list[str]) -> None:
    newest, known = revisions()
    if found == [newest]:
        return
    if not found:
        raise UserError(_broken(shown, "is no store of MLflow, or was left half-made"))
    if found[0] not in known:
        raise UserError(
            f"the tracking store {shown} was written by a newer MLflow (schema {found[0]}): "
            f"install that one, or name another store with MLFLOW_TRACKING_URI"
        )
    raise UserError(
        f"the tracking store {shown} is of an older MLflow (schema {found[0]}) or was left "
        f"half-made: copy it, then bring it up to date with "
        f"'mlflow db upgrade {PREFIX}{database}'"
    )


def _broken(shown: str, what: str) -> str:
    return (
        f"the tracking store {shown} {what}: restore it from a copy, or move it away and a new one "
        f"is made"
    )


def deleted_experiment(database: Path, name: str) -> str | None:
    """The id of the experiment of that name if it was deleted in MLflow's pages, else None."""
    rows = _asked(database, EXPERIMENT_QUERY, name)
    return next((str(number) for number, stage in rows if stage == DELETED), None)


def has_experiments(database: Path) -> bool:
    return bool(_asked(database, "SELECT 1 FROM experiments LIMIT 1"))


def _asked(database: Path, query: str, *values: str) -> list[tuple[object, ...]]:
    """The rows of a query; none where its table is missing.

    Opened to be written, since a reader alone cannot undo what a process that was killed in the
    midst of a transaction has left.
    """
    address = f"{database.absolute().as_uri()}?mode=rw"
    try:
        with closing(sqlite3.connect(address, uri=True, timeout=LOCKED_S)) as connection:
            return connection.execute(query, values).fetchall()
    except UnicodeDecodeError:  # what sqlite quotes of the file in its own error
        raise UserError(_broken(locations.shown(database), "is damaged")) from None
    except sqlite3.Error as error:
        if told := refusal(error, database):
            raise told from None
        if isinstance(error, sqlite3.OperationalError) and "no such table" in str(error):
            return []
        raise UserError(
            f"the tracking store {locations.shown(database)} cannot be read: {error}"
        ) from None


def refusal(error: BaseException, database: Path) -> UserError | None:
    """The sentence for an error of the file: it is locked, or damaged; None for any other."""
    shown = locations.shown(database)
    if is_locked(error):
        held = " and ".join(_holders(database)) or "another program"
        return UserError(
            f"the tracking store {shown} has been locked for {LOCKED_S:.0f} s by {held}: "
            f"end that, or name another store with MLFLOW_TRACKING_URI"
        )
    if is_damaged(error):
        return UserError(_broken(shown, "is damaged"))
    return None


def _holders(database: Path) -> Iterator[str]:
    """Who holds a lock on the file, as ``/proc/locks`` of Linux knows."""
    own = os.getpid()
    with suppress(OSError):
        stat = database.stat()
        place = f"{os.major(stat.st_dev):02x}:{os.minor(stat.st_dev):02x}:{stat.st_ino}"
        rows = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        for pid in sorted({int(row[4]) for row in rows if "->" not in row and place in row}):
            with suppress(psutil.NoSuchProcess):
                if pid not in (own, 0, -1):
                    yield f"{psutil.Process(pid).name()} (process {pid})"
