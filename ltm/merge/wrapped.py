"""A merge with something added, and one merge after another.

Legend: B images, N tokens, P slots, T all tokens, H heads, D channels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from ltm.merge.base import Merge, at_least_float32

if TYPE_CHECKING:
    from collections.abc import Callable

_SMALLEST = 1e-9  # weight of what went into a package


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

    def kept(self, places: Tensor) -> Tensor | None:
        return self.merge.kept(places)


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

    def kept(self, places: Tensor) -> None:  # noqa: ARG002
        return None


@dataclass(frozen=True)
class WithPackage(Wrapped):
    """A merge with one more slot, the last one: a weighted sum of tokens, which counts as one.

    weight: [B, N], of each token in the package; 0 for those that are no part of it.
    """

    weight: Tensor

    keeps_mass = False
    convex = False

    @property
    def slots(self) -> int:  # type: ignore[override]
        return self.merge.slots + 1

    @property
    def present(self) -> Tensor | None:  # type: ignore[override]
        present = self.merge.present
        return None if present is None else F.pad(present, (0, 1), value=True)

    def __call__(self, x: Tensor) -> Tensor:
        rows = at_least_float32(x)
        package = self.weight[:, None].to(rows.dtype) @ rows
        return torch.cat([self.merge(x), package.to(x.dtype)], 1)

    def alongside(self, x: Tensor) -> Tensor:
        return self(x)

    def repeated(self, times: int) -> Merge:
        return WithPackage(self.merge.repeated(times), self.weight.repeat_interleave(times, 0))

    def unmerge(self, y: Tensor) -> Tensor:
        packed = (self.weight > _SMALLEST).to(y.dtype)[..., None]
        return self.merge.unmerge(y[:, :-1]) + packed * y[:, -1:]

    def weights(self) -> Tensor | None:
        G = self.merge.weights()
        return None if G is None else torch.cat([G, self.weight[..., None].to(G.dtype)], 2)

    def sizes(self, mass: Tensor | None = None) -> Tensor:
        return F.pad(self.merge.sizes(mass), (0, 1), value=1.0)

    def carried(self, amount: Tensor) -> Tensor:
        packed = (amount * (self.weight > _SMALLEST)).sum(1, keepdim=True)
        return torch.cat([self.merge.carried(amount), packed], 1)

    def kept(self, places: Tensor) -> Tensor | None:
        kept = self.merge.kept(places)
        return None if kept is None else F.pad(kept, (0, 1), value=-1)


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

    def kept(self, places: Tensor) -> Tensor | None:
        first = self.first.kept(places)
        return None if first is None else self.then.kept(first)
