"""PatchMerger (Renggli et al., arXiv 2202.12015): slots are what learned queries find."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ltm.merge import Merge, Transformed, at_least_float32
from ltm.methods._precision import full_precision
from ltm.methods._registry import register_method
from ltm.methods.slots import SlotMethod, Slots


class Queries(Slots):
    """G = softmax over tokens of LN(x) Q^T, Q [P, D]; slots are G^T LN(x)."""

    per_slot = "queries"

    def __init__(self, dim: int, slots: int) -> None:
        super().__init__(dim, slots)
        self.norm = nn.LayerNorm(dim)
        self.queries = nn.Parameter(torch.empty(slots, dim))
        nn.init.normal_(self.queries)

    def forward(self, tokens: Tensor) -> Tensor:
        with full_precision(tokens):
            x = self.normed(tokens)
            return (x @ self.queries.to(x.dtype).T).softmax(1)

    def merge(self, tokens: Tensor) -> Merge:
        return Transformed(super().merge(tokens), self.normed)

    def normed(self, x: Tensor) -> Tensor:
        """LN(x), [B, N, D], in float32 at least."""
        # an engine may keep weights in half precision
        return at_least_float32(self.norm(x.to(self.norm.weight.dtype)))


@register_method("patchmerger")
class PatchMerger(SlotMethod):
    """PatchMerger (arXiv 2202.12015), on the input of blocks 3, 6 and 9 of 12.

    Slot p is sum over tokens n of softmax_n(q_p . LN(x_n)) LN(x_n): P learned queries, an affine
    LayerNorm, no scale, and no residual. The class token passes by, as it is. Sites, schedule and
    start (queries of unit variance) are those of arXiv 2308.04657; the paper has one site, in the
    middle of the network, which `plan` says.

    Learned: the queries and the norm, together with all weights. Regimes: from scratch (the
    paper's), fine-tuned.

    A grid is refused, and, once weights were used, every other number of slots (`SlotMethod`).
    """

    def make(self, dim: int, slots: int) -> Slots:
        return Queries(dim, slots)
