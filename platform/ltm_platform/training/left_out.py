"""What ranks tell each other of images that cannot be decoded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.distributed as dist

from ltm_platform.events import ImagesLeftOut

if TYPE_CHECKING:
    from ltm_platform.data.bad_images import BadImages
    from ltm_platform.events import Listener


class LeftOut:
    """The bad images that all ranks have met."""

    def __init__(self, parts: list[BadImages], send: Listener = lambda _: None) -> None:
        self._parts = parts
        self._send = send
        self._told = 0

    def exchange(self) -> None:
        """Add up what the ranks have met, and send it if it is news. Collective.

        Raises:
            UserError: on all ranks, there are more than may be.
        """
        found = [part.found for part in self._parts]
        of_ranks = [found] * dist.get_world_size()
        dist.all_gather_object(of_ranks, found)
        for of_rank in of_ranks:
            for part, more in zip(self._parts, of_rank, strict=True):
                part.add(more)
        count = sum(len(part.found) for part in self._parts)
        if count > self._told:
            self._told = count
            named = {part.part: sorted(part.found.values()) for part in self._parts}
            self._send(ImagesLeftOut(named))
