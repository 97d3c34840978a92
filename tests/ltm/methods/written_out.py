"""A plain vision transformer written out for one image, for methods to be written out in.

Legend: T all tokens, H heads, D channels, d channels of a head.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ltm.methods import build_method

from ..backbones.conftest import with_method


class Attended(NamedTuple):
    """x: [T, D], after the attention and its residual. attention: [H, T, T]. keys: [T, d], mean
    over heads. normed: [T, D], what queries are made of."""

    x: Tensor
    attention: Tensor
    keys: Tensor
    normed: Tensor


def attend(block: Any, x: Tensor, counts: Tensor) -> Attended:
    """Attention of timm's block on x [T, D]; a key counts as `counts` [T] of them, 0 for none."""
    normed = block.norm1(x)
    attn = block.attn
    qkv = attn.qkv(normed).view(len(x), 3, attn.num_heads, attn.head_dim)
    maps, heads = [], []
    for h in range(attn.num_heads):
        q, k, v = qkv[:, 0, h], qkv[:, 1, h], qkv[:, 2, h]
        weight = (q @ k.T / math.sqrt(attn.head_dim)).exp() * counts
        maps.append(weight / weight.sum(1, keepdim=True))
        heads.append(maps[-1] @ v)
    return Attended(
        x + attn.proj(torch.cat(heads, 1)), torch.stack(maps), qkv[:, 1].mean(1), normed
    )


def embed(model: Any, image: Tensor) -> Tensor:
    """An image [3, height, width] -> what enters the first block, [T, D]."""
    x: Tensor = model._pos_embed(model.patch_embed(image[None]))[0]
    return x


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def network(
    method: str, ratio: float, *, class_token: bool = True, depth: int = 4, **options: Any
) -> Any:
    """A random small network for 96 px, in float64, whose tokens and attention are not alike."""
    model = with_method(
        "vit_tiny_patch16_224",
        lambda sites: build_method(method, sites, options),
        ratio,
        size=96,
        depth=depth,
        class_token=class_token,
        global_pool="token" if class_token else "avg",
    )
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if name.endswith(("attn.qkv.weight", "pos_embed")):
            torch.nn.init.normal_(parameter, std=0.1)
    return model.double()
