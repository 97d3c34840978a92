"""What controls have in common that do not look at the tokens: who merges is known from the plan.

Legend: B images, N tokens, P slots.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

import torch

from ltm.interfaces import Method
from ltm.merge import Assigned, at_least_float32

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from ltm.interfaces import Site, SiteInput, SiteKind
    from ltm.merge import Merge


class FixedMethod(Method):
    """A control: the same tokens merge in every image, to means weighted by size.

    Where a grid stays, whole rows and whole columns merge.
    """

    def __init__(self, sites: Mapping[str, SiteKind]) -> None:
        super().__init__()
        self.keys = {name: f"at_{name.replace('.', '_')}" for name in sites}

    @abstractmethod
    def slots_of(self, tokens: int, slots: int, site: str) -> Sequence[int]:
        """The slot of each of the tokens in a row, a column, or a site without a grid."""

    def prepare(self, sites: Mapping[str, Site], like: Tensor) -> None:
        # a buffer goes where the network goes; none is part of its state dict
        for name, site in sites.items():
            slot = torch.tensor(self._slots(site), device=like.device)
            self.register_buffer(self.keys[name], slot, persistent=False)

    def forward(self, given: SiteInput) -> Merge:
        tokens, mass = given.tokens, given.mass
        mass = at_least_float32(tokens.new_ones(tokens.shape[:2])) if mass is None else mass
        slot = self.get_buffer(self.keys[given.site.name])
        return Assigned.normalised(slot.expand(mass.shape[0], -1), mass, given.site.slots)

    def _slots(self, site: Site) -> list[int]:
        if isinstance(site.kept, int):
            return [*self.slots_of(site.tokens, site.kept, site.name)]
        assert site.grid is not None
        (h, w), (rows, columns) = site.grid, site.kept
        row, column = (
            self.slots_of(size, kept, f"{site.name} {axis}")
            for size, kept, axis in ((h, rows, "rows"), (w, columns, "columns"))
        )
        return [columns * r + c for r in row for c in column]
