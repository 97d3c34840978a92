"""Where a command's Ray is: started here for it, one that is here already, or a cluster's."""

from __future__ import annotations

import os
import re
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from ltm_platform.errors import UserError
from ltm_platform.ray_cluster import local_ray
from ltm_platform.storage.addresses import has_secret, shown

if TYPE_CHECKING:
    from ltm_platform.job import JobSpec

VARIABLE = "RAY_ADDRESS"
EMBEDDED = "local"
HERE = "here"
JOINED = "auto"
_HTTP = re.compile(r"https?://[\w.\[\]:-]+(/[\w./-]*)?")
_HOST_PORT = re.compile(r"[\w.-]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}")


class Kind(Enum):
    """How a command reaches Ray."""

    EMBEDDED = "a Ray of its own, for as long as the command runs"
    JOINED = "a Ray that this machine is a node of"
    CLUSTER = "a cluster's Jobs API"


def kind(address: str) -> Kind:
    """What an address means.

    Raises:
        UserError: it is none.
    """
    if address in (EMBEDDED, HERE):
        return Kind.EMBEDDED
    if _HTTP.fullmatch(address):
        return Kind.CLUSTER
    if address == JOINED or _HOST_PORT.fullmatch(address):
        return Kind.JOINED
    raise UserError(
        f"the cluster's address is {shown(address)!r}, but must be http://HOST:8265 (a cluster's "
        f"dashboard), HOST:PORT or auto (a Ray that this machine is a node of), here (a Ray of its "
        f"own, once this machine has room), or local (a Ray of its own at once)"
    )


def find_address(given: str | None, job: JobSpec | None = None) -> str:
    """The option, else ``cluster.address``, else ``RAY_ADDRESS``, else the Ray that ``cluster up
    --local`` keeps here, else `HERE`.

    Raises:
        UserError: it is no address.
    """
    own = None if job is None else job.cluster.address
    found = given or own or os.environ.get(VARIABLE)
    if found is None:
        running = local_ray.running()
        found = running.address if running else HERE
    try:
        kind(found)
    except UserError as error:
        if job is not None and own and not given and not has_secret(own):
            raise job.error("cluster.address", f"cluster.address: {error}") from None
        raise
    return found.rstrip("/")


def is_here(address: str) -> bool:
    """Whether the cluster is the one that ``cluster up --local`` keeps on this machine."""
    running = local_ray.running()
    return running is not None and running.address == address


def use_token() -> None:
    """Show the token to a cluster, if this user has one and has not turned it off."""
    stored = Path.home() / ".ray" / "auth_token"
    known = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    if stored.exists() or any(os.environ.get(name) for name in known):
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def token_wanted(address: str) -> UserError:
    """The sentence for a user whom the Ray at ``address`` refuses."""
    return UserError(
        f"the Ray at {address} wants a token, and does not know the one of this user: copy its "
        f"head's ~/.ray/auth_token to yours, or set RAY_AUTH_TOKEN"
    )
