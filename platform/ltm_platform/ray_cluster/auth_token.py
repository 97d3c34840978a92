"""The token that every Ray of ours requires: made for this user alone, and shown to clusters."""

from __future__ import annotations

import logging
import os
import secrets
import stat
from pathlib import Path

from ltm_platform.errors import UserError
from ltm_platform.storage import locations

MODE_VARIABLE = "RAY_AUTH_MODE"
TOKEN_VARIABLE = "RAY_AUTH_TOKEN"
PATH_VARIABLE = "RAY_AUTH_TOKEN_PATH"
_OTHERS = stat.S_IRWXG | stat.S_IRWXO

_log = logging.getLogger(__name__)


def token_file() -> Path:
    """Where Ray looks for this user's token."""
    return Path(os.environ.get(PATH_VARIABLE) or Path.home() / ".ray" / "auth_token")


def ensure_token() -> tuple[str, ...]:
    """Have a token before a Ray starts here, unless the user has switched that off.

    Ray would make one that every user of the machine can read. Where none can be stored, it is one
    of this process and those that it starts.

    Returns what the user should know.
    """
    mode = os.environ.get(MODE_VARIABLE) or "token"
    if mode != "token" or os.environ.get(TOKEN_VARIABLE):
        return ()
    if not _is_there():
        token = secrets.token_hex(32)
        try:
            _store(token)
        except OSError:
            if not _is_there():  # else another command of this user was faster
                os.environ[TOKEN_VARIABLE] = token
    os.environ[MODE_VARIABLE] = mode
    return close_token()


def _is_there() -> bool:
    return os.path.exists(token_file())


def _store(token: str) -> None:
    """Whole or not at all: another command may look for it just now."""
    file = token_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as opened:
            opened.write(token)
        os.link(part, file)
    finally:
        part.unlink(missing_ok=True)


def close_token() -> tuple[str, ...]:
    """Take from all others the right to read a token that an earlier Ray has left open; a sentence
    if there was one."""
    file = token_file()
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
    except OSError:
        return ()
    if not mode & _OTHERS:
        return ()
    shown = locations.shown(file)
    renew = "if others use this machine, remove it, and a new one is made"
    try:
        file.chmod(mode & ~_OTHERS)
    except OSError as error:
        return (f"other users can read {shown}, Ray's token: {error.strerror}; {renew}",)
    return (f"other users could read {shown}, Ray's token: now they cannot; {renew}",)


def use_token() -> None:
    """Show the token to a cluster, if this user has one and has not turned it off."""
    if _is_there() or os.environ.get(TOKEN_VARIABLE) or os.environ.get(PATH_VARIABLE):
        os.environ.setdefault(MODE_VARIABLE, "token")
        for notice in close_token():
            _log.warning(notice)


def token_wanted(address: str) -> UserError:
    """The sentence for a user whom the Ray at ``address`` refuses."""
    return UserError(
        f"the Ray at {address} wants a token, and does not know the one of this user: copy its "
        f"head's ~/.ray/auth_token to yours, or set {TOKEN_VARIABLE}"
    )
