"""Methods of a few lines that ask for all that a backbone can be asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch.nn import functional as F

from ltm.interfaces import Evidence, Method, SiteInput
from ltm.merge import Assigned, Merge, Selected, Transformed, Weighted, WithAttention

if TYPE_CHECKING:
    from torch import Tensor


class Toy(Method):
    """Keeps what it was given, in `seen`."""

    proportional = False

    def __init__(self, _sites: Any) -> None:
        super().__init__()
        self.seen: list[SiteInput] = []

    def forward(self, given: SiteInput) -> Merge:
        self.seen.append(given)
        return self.decide(given)

    def decide(self, given: SiteInput) -> Merge:
        return first_tokens(given)


def first_tokens(given: SiteInput) -> Merge:
    """Keeps the first tokens."""
    B, N, _ = given.tokens.shape
    index = torch.arange(given.site.slots, device=given.tokens.device).expand(B, -1)
    return Selected(index, N)


def top(score: Tensor, given: SiteInput) -> Merge:
    """Keeps the tokens of the highest score [B, N], in the order of the image."""
    index = score.argsort(-1, descending=True)[:, : given.site.slots].sort(-1).values
    return Selected(index, given.tokens.shape[1])


class OnInput(Toy):
    """Drops tokens before the attention."""

    acts_on = "input"


class PairsOnInput(Toy):
    """Neighbours in a row of a grid merge before the attention."""

    acts_on = "input"

    def decide(self, given: SiteInput) -> Merge:
        assert given.site.grid is not None
        rows, columns = given.site.grid
        assert given.site.kept == (rows, columns // 2)
        slot = torch.arange(rows * columns) // 2
        ones = torch.ones(given.tokens.shape[:2])
        return Assigned.normalised(slot.expand(len(ones), -1), ones, given.site.slots)


class ByClassAttention(Toy):
    """Keeps what the class token attends to (mean over heads)."""

    needs: frozenset[Evidence] = frozenset({"class_attention", "value_norms"})

    def decide(self, given: SiteInput) -> Merge:
        assert given.class_attention is not None
        return top(given.class_attention.mean(1), given)


class ByReceivedBefore(Toy):
    """Keeps what was attended to in the block before; tokens are dropped before the attention."""

    acts_on = "input"
    needs: frozenset[Evidence] = frozenset({"received_before"})

    def decide(self, given: SiteInput) -> Merge:
        assert given.received_before is not None
        return top(given.received_before, given)


class PairsByReceivedBefore(ByReceivedBefore):
    """Neighbours merge after the attention, so that what was received has to be carried."""

    acts_on = "attended"

    def decide(self, given: SiteInput) -> Merge:
        B, N, _ = given.tokens.shape
        ones = torch.ones(B, N)
        return Assigned.normalised((torch.arange(N) // 2).expand(B, -1), ones, N // 2)


class Everything(Toy):
    """Looks at all there is."""

    needs: frozenset[Evidence] = frozenset(
        {"normed_input", "keys", "value_norms", "received", "class_attention", "attention"}
    )


class EverythingOnInput(Everything):
    acts_on = "input"


class HandsMap(Toy):
    """Neighbours merge before the attention, whose map, merged, is used in the place of a new one.

    As MCTF (arXiv 2403.10030) does: keys are summed, queries averaged.
    """

    acts_on = "input"
    needs: frozenset[Evidence] = frozenset({"attention"})

    def decide(self, given: SiteInput) -> Merge:
        assert given.attention is not None
        B, N, _ = given.tokens.shape
        device = given.tokens.device  # "meta" where costs are counted
        slot = (torch.arange(N, device=device) // 2).expand(B, -1)
        merge = Assigned.normalised(slot, torch.ones(B, N, device=device), N // 2)
        G = merge.weights()
        prefix = torch.eye(given.prefix, device=device).expand(B, -1, -1)
        mean = _block_diagonal(prefix, G)[:, None]
        total = _block_diagonal(prefix, (G > 0).float())[:, None]
        return WithAttention(merge, mean.transpose(-2, -1) @ given.attention @ total)


def _block_diagonal(a: Tensor, b: Tensor) -> Tensor:
    top_rows = F.pad(a, (0, b.shape[2]))
    return torch.cat([top_rows, F.pad(b, (a.shape[2], 0))], 1)


class Sums(Toy):
    """Keeps the first tokens, and one more that is the sum of all others (as EViT, 2202.07800)."""

    def decide(self, given: SiteInput) -> Merge:
        B, N, _ = given.tokens.shape
        slot = torch.arange(N).clamp_max(given.site.slots - 1)
        G = F.one_hot(slot, given.site.slots).float().expand(B, -1, -1)
        return Weighted(G, keeps_mass=True)


class Normalised(Toy):
    """Dense means of normalised tokens (as PatchMerger, 2202.12015)."""

    def __init__(self, sites: Any) -> None:
        super().__init__(sites)
        self.queries = torch.nn.Parameter(torch.randn(8, next(iter(sites.values())).dim))

    def decide(self, given: SiteInput) -> Merge:
        dim = given.site.dim
        x = F.layer_norm(given.tokens, (dim,))
        G = (x @ self.queries[: given.site.slots].T).softmax(1)
        merge = Weighted(G, convex=True, keeps_mass=True)
        return Transformed(merge, lambda tokens: F.layer_norm(tokens, (dim,)))


class Varies(Toy):
    """Keeps the tokens whose first channel is above 0, at least one: a number for each image."""

    varies = True
    wants: frozenset[Evidence] = frozenset({"received", "received_before", "class_attention"})
    static: ClassVar[bool] = False
    """Padded to the plan's number, and not to the largest of the batch."""

    def decide(self, given: SiteInput) -> Merge:
        index, present = self.chosen(given)
        return Selected(index, given.tokens.shape[1], self.mask(present))

    def chosen(self, given: SiteInput) -> tuple[Tensor, Tensor]:
        """The token of every slot, and which slots are there: [B, P] each."""
        good = (given.tokens[..., 0] > 0) & there(given)
        good[:, 0] |= ~good.any(1)
        count = good.sum(1).clamp_max(given.site.slots)
        slots = given.site.slots if self.static else int(count.max())
        index = good.long().argsort(dim=1, descending=True, stable=True)[:, :slots]
        return index, torch.arange(slots) < count[:, None]

    def mask(self, present: Tensor) -> Tensor | None:
        return None if bool(present.all()) and not self.static else present


class VariesOnInput(Varies):
    acts_on = "input"


class VariesBySize(Varies):
    """What is not kept joins the first slot, and attention heeds sizes."""

    proportional = True

    def decide(self, given: SiteInput) -> Merge:
        B, N, _ = given.tokens.shape
        index, present = self.chosen(given)
        G = torch.zeros(B, N, index.shape[1]).scatter(1, index[:, None], present.float()[:, None])
        G[..., 0] += there(given) * (G.sum(2) == 0)
        mass = torch.ones(B, N) if given.mass is None else given.mass
        G = G * mass[..., None]
        G = G / G.sum(1, keepdim=True).clamp_min(1e-6)
        return Weighted(G, self.mask(present), convex=True, keeps_mass=True)


def there(given: SiteInput) -> Tensor:
    """[B, N] bool, False for padding."""
    return torch.ones(given.tokens.shape[:2]).bool() if given.present is None else given.present


class VariesStatic(Varies):
    static = True
