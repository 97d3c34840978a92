"""A merge with something added, and one merge after another.

Legend: B images, N tokens, P slots, T all tokens, H heads, D channels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from ltm.merge.base import Merge

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


@dataclass(frozen=True)
class Wrapped(Merge):
    """Another merge, with one property of its own; all others are those of the other one."""

    merge: Merge

    @property
    def slots(self) -> int:  # type: ignore[override]
        return self.merge.slots

    @property
    def linear(self) -> bool:  # type: ignore[override]
        return self.merge.linear

    @property
    def convex(self) -> bool:  # type: ignore[override]
        return self.merge.convex

    @property
    def keeps_mass(self) -> bool:  # type: ignore[override]
        return self.merge.keeps_mass

    @property
    def present(self) -> Tensor | None:  # type: ignore[override]
        return self.merge.present

    def __call__(self, x: Tensor) -> Tensor:
        return self.merge(x)

    def alongside(self, x: Tensor) -> Tensor:
        return self.merge.alongside(x)

    def repeated(self, times: int) -> Merge:
        return replace(self, merge=self.merge.repeated(times))

    def unmerge(self, y: Tensor) -> Tensor:
        return self.merge.unmerge(y)

    def weights(self) -> Tensor | None:
        return self.merge.weights()

    def sizes(self, mass: Tensor | None = None) -> Tensor:
        return self.merge.sizes(mass)

    def carried(self, amount: Tensor) -> Tensor:
        return self.merge.carried(amount)


@dataclass(frozen=True)
class WithAttention(Wrapped):
    """A merge that hands the block a map to use in the place of a new one, see `Merge.attention`.

    map: [B, H, T, T], of the prefix and the slots.
    """

    map: Tensor

    @property
    def attention(self) -> Tensor:  # type: ignore[override]
        return self.map

    def repeated(self, times: int) -> Merge:
        return WithAttention(self.merge.repeated(times), self.map.repeat_interleave(times, 0))


@dataclass(frozen=True)
class Transformed(Wrapped):
    """A merge of tokens that are transformed first, such as normalised ones.

    transform: [B, N, D] -> [B, N, D], for each image alone.
    """

    transform: Callable[[Tensor], Tensor]

    @property
    def linear(self) -> bool:  # type: ignore[override]
        return False

    def __call__(self, x: Tensor) -> Tensor:
        return self.merge(self.transform(x)).to(x.dtype)


@dataclass(frozen=True)
class Chained(Merge):
    """A merge, and then another one of its slots, such as `Selected`, which puts them in order.

    first: N -> any number. then: that number -> P.
    """

    first: Merge
    then: Merge

    @property
    def slots(self) -> int:  # type: ignore[override]
        return self.then.slots

    @property
    def linear(self) -> bool:  # type: ignore[override]
        return self.first.linear and self.then.linear

    @property
    def convex(self) -> bool:  # type: ignore[override]
        return self.first.convex and self.then.convex

    @property
    def keeps_mass(self) -> bool:  # type: ignore[override]
        return self.first.keeps_mass and self.then.keeps_mass

    @property
    def present(self) -> Tensor | None:  # type: ignore[override]
        return self.then.present

    def __call__(self, x: Tensor) -> Tensor:
        return self.then(self.first(x))

    def alongside(self, x: Tensor) -> Tensor:
        return self.then.alongside(self.first.alongside(x))

    def repeated(self, times: int) -> Merge:
        return Chained(self.first.repeated(times), self.then.repeated(times))

    def unmerge(self, y: Tensor) -> Tensor:
        return self.first.unmerge(self.then.unmerge(y))

    def weights(self) -> Tensor | None:
        a, b = self.first.weights(), self.then.weights()
        if a is None or b is None:
            return None
        dtype = torch.promote_types(a.dtype, b.dtype)
        return a.to(dtype) @ b.to(dtype)

    def sizes(self, mass: Tensor | None = None) -> Tensor:
        return self.then.sizes(self.first.sizes(mass))

    def carried(self, amount: Tensor) -> Tensor:
        return self.then.carried(self.first.carried(amount))
