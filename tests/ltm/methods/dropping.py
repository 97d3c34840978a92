"""A plain ViT whose tokens are dropped, written from the papers of DynamicViT and SPViT.

Attention is computed query by query; a token that was dropped is masked or removed by hand.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ltm.methods import build_method

from ..backbones.conftest import with_method

if TYPE_CHECKING:
    from ltm.merge import Merge

POOLS: dict[str, dict[str, Any]] = {
    "token": {"global_pool": "token"},
    "avg": {"global_pool": "avg", "class_token": False},
}
SMALL, PIXELS = "vit_small_patch16_224", 64
CHANCE = 9  # a seed with which every image keeps a token


class Ours(NamedTuple):
    logits: Tensor
    merges: list[Merge]
    model: Any


def run(method: str, pool: str, *, training: bool, plan: dict[str, int]) -> tuple[Ours, Tensor]:
    """A random ViT-S in float64 with scores that differ, and what it made of two images."""
    model = with_method(
        SMALL, lambda sites: build_method(method, sites, {}), plan, size=PIXELS, **POOLS[pool]
    )
    for selector in model.method.selectors:
        for parameter in selector.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    model.double().train(training)
    images = torch.randn(2, 3, PIXELS, PIXELS, dtype=torch.float64)
    merges: list[Merge] = []
    hook = model.method.register_forward_hook(lambda _m, _a, merge: merges.append(merge))
    torch.manual_seed(CHANCE)
    logits = model(images)
    hook.remove()
    return Ours(logits, merges, model), images


def embedded(model: Any, images: Tensor) -> Tensor:
    x = model.patch_embed(images)
    if model.cls_token is not None:
        x = torch.cat([model.cls_token.expand(len(x), -1, -1), x], 1)
    return x + model.pos_embed


def block(block: Any, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """keep: [B, T], 0 or 1; a token that was dropped is seen by itself alone."""
    B, T, D = x.shape
    H = block.attn.num_heads
    d = D // H
    qkv = F.linear(block.norm1(x), block.attn.qkv.weight, block.attn.qkv.bias)
    q, k, v = (part.view(B, T, H, d) for part in qkv.split(D, -1))
    rows = []
    for b in range(B):
        heads = []
        for h in range(H):
            G = torch.ones(T, T, dtype=x.dtype)
            if keep is not None:
                G = keep[b].expand(T, T) * (1 - torch.eye(T)) + torch.eye(T)
            weight = (q[b, :, h] @ k[b, :, h].T / math.sqrt(d)).exp() * G
            heads.append(weight / weight.sum(1, keepdim=True) @ v[b, :, h])
        rows.append(torch.cat(heads, -1))
    x = x + F.linear(torch.stack(rows), block.attn.proj.weight, block.attn.proj.bias)
    return x + block.mlp(block.norm2(x))


def classified(model: Any, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """Logits of tokens x [B, T, D] by the network's own head; keep as in `block`."""
    if model.global_pool == "token":
        return model.head(model.fc_norm(model.norm(x)[:, 0]))
    x = model.norm(x)
    keep = torch.ones(x.shape[:2], dtype=x.dtype) if keep is None else keep
    return model.head(model.fc_norm((x * keep[..., None]).sum(1) / keep.sum(1, keepdim=True)))


def gumbel_keeps(logs: Tensor) -> Tensor:
    """[B, N, 2] -> [B, N]: whether log keep + noise is the larger one."""
    noise = -torch.empty_like(logs).exponential_().log()
    return ((logs + noise)[..., 0] > (logs + noise)[..., 1]).to(logs.dtype)
