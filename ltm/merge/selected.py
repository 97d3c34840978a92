"""Some tokens stay, the others are dropped. Legend: B images, N tokens, P slots, D channels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ltm.merge.base import Merge


@dataclass(frozen=True)
class Selected(Merge):
    """Some tokens stay as they are, all others are dropped.

    index: [B, P] integer, the token of each slot. present: [B, P] bool, False for padding, whose
    index may be any. tokens: N. dtype: of weights and sizes.
    """

    index: Tensor
    tokens: int
    present: Tensor | None = None
    dtype: torch.dtype = torch.float32

    keeps_mass = False

    @property
    def slots(self) -> int:  # type: ignore[override]
        return self.index.shape[1]

    def __call__(self, x: Tensor) -> Tensor:
        y = x.gather(1, self.index[..., None].expand(-1, -1, x.shape[-1]))
        return y if self.present is None else y * self.present[..., None]

    def repeated(self, times: int) -> Selected:
        present = None if self.present is None else self.present.repeat_interleave(times, 0)
        return replace(self, index=self.index.repeat_interleave(times, 0), present=present)

    def unmerge(self, y: Tensor) -> Tensor:
        y = y if self.present is None else y * self.present[..., None]
        back = y.new_zeros(y.shape[0], self.tokens, y.shape[-1])
        return back.scatter_add(1, self.index[..., None].expand_as(y), y)

    def weights(self) -> Tensor:
        B, P = self.index.shape
        there = torch.ones(B, P, device=self.index.device, dtype=self.dtype)
        there = there if self.present is None else self.present.to(self.dtype)
        return there.new_zeros(B, self.tokens, P).scatter(1, self.index[:, None], there[:, None])

    def sizes(self, mass: Tensor | None = None) -> Tensor:
        carried = torch.ones_like(self.index, dtype=self.dtype)
        carried = carried if mass is None else mass.gather(1, self.index)
        return carried if self.present is None else carried * self.present

    def kept(self, places: Tensor) -> Tensor:
        places = places.gather(1, self.index)
        return places if self.present is None else places.where(self.present, -1)
