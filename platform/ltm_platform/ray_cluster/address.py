"""Where a command's Ray is: started here for it, one that is here already, or a cluster's."""

from __future__ import annotations

import os
import re
from enum import Enum
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


class Address(str):
    """An address, with where it was found."""

    source: str

    @classmethod
    def of(cls, text: str, source: str) -> Address:
        address = cls(text.rstrip("/"))
        address.source = source
        return address


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


def find_address(given: str | None, job: JobSpec | None = None) -> Address:
    """The option, else ``cluster.address``, else ``RAY_ADDRESS``, else the Ray that ``cluster up
    --local`` keeps here, else `HERE`.

    Raises:
        UserError: it is no address.
    """
    own = None if job is None else job.cluster.address
    if found := given:
        source = "from --address"
    elif found := own:
        source = "from cluster.address of the job"
    elif found := os.environ.get(VARIABLE):
        source = f"from the variable {VARIABLE}"
    elif running := local_ray.running():
        found, source = running.address, "that 'cluster up --local' keeps"
    else:
        found, source = HERE, "as always"
    try:
        kind(found)
    except UserError as error:
        if job is not None and own and not given and not has_secret(own):
            raise job.error("cluster.address", f"cluster.address: {error}") from None
        raise
    return Address.of(found, source)


def is_here(address: str) -> bool:
    """Whether the cluster is the one that ``cluster up --local`` keeps on this machine."""
    running = local_ray.running()
    return running is not None and running.address == address
