"""The Ray that a call uses: one of its own, one that is there already, or its caller's."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltm_platform.compat.ray_core import on_loopback
from ltm_platform.ray_cluster import attach, embedded, forked_workers
from ltm_platform.ray_cluster.address import HERE, Kind, kind
from ltm_platform.ray_cluster.auth_token import close_token, ensure_token
from ltm_platform.ray_cluster.embedded import embedded_ray, this_machine
from ltm_platform.ray_cluster.machine.claims import Need, claimed
from ltm_platform.ray_cluster.resources import Resources

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ltm_platform.ray_cluster.embedded import EmbeddedRay

OTHER = "another command"
"""The owner of a claim that is no run's."""


@dataclass(frozen=True, slots=True)
class Session:
    """Where a call's workers go."""

    resources: Resources
    """All resources that they can have there."""
    joined: bool
    """Whether its Ray was running before."""
    stays: bool = False
    """Whether it is the caller's, and keeps running when the call ends."""
    waits: bool = False
    """Whether one of its own starts when others on this machine have left what it needs."""
    notices: tuple[str, ...] = ()
    """What the user should know of it."""

    @contextmanager
    def ray(
        self, need: Need | None = None, notify: Callable[[str], None] = lambda _: None
    ) -> Iterator[EmbeddedRay | None]:
        """Ray runs in the block; unless it `stays`, it has ended when the block ends.

        None: it is not this call's own. Of its own it has what it ``needs``, by default all of the
        machine; ``notify`` is called with what it waits for.
        """
        if self.stays:
            yield None
        elif self.joined:
            with attach.joined_ray():
                yield None
        else:
            ensure_token()
            need = need or Need(OTHER, self.resources.cpus, int(self.resources.gpus))
            with claimed(need, self.resources, waits=self.waits, notify=notify) as claim:
                own = Resources(claim.cpus, len(claim.gpus))
                with embedded_ray(own, claim.gpus if self.resources.gpus else None) as ray:
                    yield ray


@contextmanager
def session(address: str, preload: Sequence[str] = ()) -> Iterator[Session]:
    """Join the Ray at ``address`` until the block ends; one of its own starts in `Session.ray`.

    Where this process is connected to a Ray already, that one is used, and left as it is.

    Args:
        preload: what the workers of one of its own import, which begins at once; see
            `forked_workers`.

    Raises:
        UserError: there is none, or it refuses.
    """
    if attach.is_joined():
        yield Session(attach.at_most(), joined=True, stays=True)
    elif kind(address) == Kind.EMBEDDED:
        with on_loopback(), forked_workers.fork_server(preload, embedded.ENVIRONMENT):
            yield Session(
                this_machine(), joined=False, waits=address == HERE, notices=close_token()
            )
    else:
        attach.join(address)
        with attach.joined_ray():
            yield Session(attach.at_most(), joined=True)
