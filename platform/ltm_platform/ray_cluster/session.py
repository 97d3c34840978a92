"""The Ray that a command trains on: one of its own, or one that is there already."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ltm_platform.ray_cluster import attach
from ltm_platform.ray_cluster.address import EMBEDDED
from ltm_platform.ray_cluster.embedded import embedded_ray, this_machine

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from ltm_platform.ray_cluster.resources import Resources


def resources_at(address: str) -> Resources:
    """What a run can ever have there. A Ray that is there already is joined.

    Raises:
        UserError: there is none, or it refuses.
    """
    if address == EMBEDDED:
        return this_machine()
    attach.join(address)
    return attach.at_most()


def ray_at(address: str, resources: Resources) -> AbstractContextManager[None]:
    """A Ray of these resources for the time of the block, or until its end the one joined."""
    return embedded_ray(resources) if address == EMBEDDED else attach.joined_ray()
