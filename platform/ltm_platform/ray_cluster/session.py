"""The Ray that a call uses: one of its own, one that is there already, or its caller's."""

from __future__ import annotations

from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltm_platform.compat.ray_core import on_loopback
from ltm_platform.ray_cluster import attach
from ltm_platform.ray_cluster.address import EMBEDDED
from ltm_platform.ray_cluster.auth_token import close_token, ensure_token
from ltm_platform.ray_cluster.embedded import embedded_ray, this_machine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ltm_platform.ray_cluster.resources import Resources


@dataclass(frozen=True, slots=True)
class Session:
    """Where a call's workers go."""

    resources: Resources
    """All resources that they can have there."""
    joined: bool
    """Whether its Ray was running before."""
    stays: bool = False
    """Whether it is the caller's, and keeps running when the call ends."""
    notices: tuple[str, ...] = ()
    """What the user should know of it."""

    def ray(self) -> AbstractContextManager[None]:
        """Ray runs in the block; unless it `stays`, it has ended when the block ends."""
        if self.stays:
            return nullcontext()
        if self.joined:
            return attach.joined_ray()
        ensure_token()
        return embedded_ray(self.resources)


@contextmanager
def session(address: str) -> Iterator[Session]:
    """Join the Ray at ``address`` until the block ends; one of its own starts in `Session.ray`.

    Where this process is connected to a Ray already, that one is used, and left as it is.

    Raises:
        UserError: there is none, or it refuses.
    """
    if attach.is_joined():
        yield Session(attach.at_most(), joined=True, stays=True)
    elif address == EMBEDDED:
        with on_loopback():
            yield Session(this_machine(), joined=False, notices=close_token())
    else:
        attach.join(address)
        with attach.joined_ray():
            yield Session(attach.at_most(), joined=True)
