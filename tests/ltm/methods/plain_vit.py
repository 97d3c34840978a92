"""A plain ViT for one image, written without any of the code under test.

Agreement tests hang a paper's formula, in loops, into it: what comes out has to be what the network
with the method gives, in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import ltm


@dataclass
class Seen:
    """A block after its attention.

    x: [T, D], tokens, the class token first. prefix: how many stand before the image's. attention:
    [H, T, T], query by key. values: [H, T, d]. sizes: [T], of proportional attention.
    """

    x: Tensor
    prefix: int
    attention: Tensor
    values: Tensor
    sizes: Tensor

    def class_attention(self) -> Tensor:
        """[H, N], from the class token, or the mean over all; to the tokens of the image."""
        rows = self.attention[:, 0] if self.prefix else self.attention.mean(1)
        return rows[:, self.prefix :]


Reduce = Callable[[str, Seen], tuple[Tensor, Tensor]]
"""What happens after the attention of a block of that name: tokens [P, D] and sizes [P], of the
image alone."""


def network(model: Any, image: Tensor, reduce: Reduce) -> Tensor:
    """Logits [classes] of a float64 network, for one image [3, height, width]."""
    x = model.patch_embed(image[None])[0]
    prefix = 0 if model.cls_token is None else 1
    if prefix:
        x = torch.cat([model.cls_token[0], x])
    x = x + model.pos_embed[0]
    sizes = x.new_ones(len(x))
    for i, block in enumerate(model.blocks):
        x, attention, values = _attend(block, x, sizes)
        seen = Seen(x, prefix, attention, values, sizes)
        tokens, size = reduce(f"blocks.{i}", seen)
        x, sizes = torch.cat([x[:prefix], tokens]), torch.cat([sizes[:prefix], size])
        y = F.layer_norm(x, x.shape[-1:], block.norm2.weight, block.norm2.bias, block.norm2.eps)
        y = F.gelu(F.linear(y, block.mlp.fc1.weight, block.mlp.fc1.bias))
        x = x + F.linear(y, block.mlp.fc2.weight, block.mlp.fc2.bias)
    pooled = model.norm(x)[0] if prefix else model.fc_norm(model.norm(x).mean(0))
    logits: Tensor = model.head(pooled)
    return logits


def _attend(block: Any, x: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    T, D = x.shape
    heads = block.attn.num_heads
    y = F.layer_norm(x, (D,), block.norm1.weight, block.norm1.bias, block.norm1.eps)
    qkv = F.linear(y, block.attn.qkv.weight, block.attn.qkv.bias)
    q, k, v = (part.view(T, heads, D // heads).transpose(0, 1) for part in qkv.split(D, 1))
    logits = q @ k.transpose(1, 2) / (D // heads) ** 0.5 + sizes.log()
    attention = logits.softmax(-1)
    out = (attention @ v).transpose(0, 1).reshape(T, D)
    return x + F.linear(out, block.attn.proj.weight, block.attn.proj.bias), attention, v


NETS = {"vit_tiny_patch16_224": 96, "vit_nano_patch4_32": 32}  # with a class token, without one


def create(backbone: str, method: str, **options: Any) -> tuple[Any, Tensor]:
    """A network in float64 whose attention is far from even, and three images."""
    torch.manual_seed(0)
    size = NETS[backbone]
    model: Any = ltm.create_model(backbone, method, image_size=size, num_classes=5, **options)
    for block in model.blocks:
        torch.nn.init.normal_(block.attn.qkv.weight, std=3 * model.embed_dim**-0.5)
        torch.nn.init.normal_(block.attn.proj.weight, std=0.1)
    return model.eval().double(), torch.randn(3, 3, size, size, dtype=torch.float64)


@torch.no_grad()
def disagreement(model: Any, images: Tensor, reduce: Reduce) -> float:
    """The largest difference of logits between a network and the one in loops."""
    by_hand = torch.stack([network(model, image, reduce) for image in images])
    return float((model(images) - by_hand).abs().max())
