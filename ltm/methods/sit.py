"""Self-slimmed ViT, SiT (Zong et al., arXiv 2111.12624): slots are weighed by a small MLP."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltm.merge import at_least_float32
from ltm.methods._precision import full_precision
from ltm.methods._registry import register_method
from ltm.methods.slots import SlotMethod, Slots


class Slimming(Slots):
    """G = softmax over tokens of s MLP(LN(x)), MLP D -> D / 2 -> P with GELU; slots are G^T x."""

    per_slot = "weigh.weight"

    def __init__(self, dim: int, slots: int) -> None:
        super().__init__(dim, slots)
        self.norm = nn.LayerNorm(dim)
        self.hidden = nn.Linear(dim, dim // 2)
        self.weigh = nn.Linear(dim // 2, slots)
        self.scale = nn.Parameter(torch.ones(1))
        for linear in (self.hidden, self.weigh):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        with full_precision(tokens):
            # an engine may keep weights in half precision
            x = self.norm(tokens.to(self.norm.weight.dtype))
            logits = at_least_float32(self.weigh(F.gelu(self.hidden(x))))
            return (logits * self.scale).softmax(1)


@register_method("sit")
class SelfSlimming(SlotMethod):
    """SiT's token slimming (arXiv 2111.12624), on the input of blocks 3, 6 and 9 of 12.

    Slot p is sum over tokens n of softmax_n(s MLP(LN(x_n))_p) x_n, with an MLP D -> D / 2 -> P and
    a learned scale s, 1 at the start. The class token passes by. Sites and schedule are those of
    arXiv 2308.04657; the paper's own network has stages of convolutions before it.

    Learned: norm, MLP and scale, together with all weights. Regimes: fine-tuned, from scratch.

    Ours: the recovery distillation of the paper's recipe, which brings all tokens back and compares
    them with a teacher's, is left out, as in arXiv 2308.04657.

    A grid is refused, and, once weights were used, every other number of slots (`SlotMethod`).
    """

    def make(self, dim: int, slots: int) -> Slots:
        return Slimming(dim, slots)
