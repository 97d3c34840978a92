"""A plain ViT written out for one image, into which a test puts a paper's formula as loops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import ltm

CLASSY, POOLED = "vit_tiny_patch16_224", "vit_nano_patch4_32"  # with a class token, without one
SIZES = {CLASSY: 96, POOLED: 32}
CLOSE = 1e-9


@dataclass
class Tokens:
    """All tokens of one image, in the order that they lie in; those of the image after `prefix`.

    x: [T, D]. sizes: [T]. groups: which tokens of the image each one of them stands for.
    before: [H, T, T], the attention map of the block before; the block's own in `map`.
    keys: [T, d], mean over heads.
    """

    x: Tensor
    sizes: Tensor
    groups: list[list[int]]
    prefix: int
    map: Tensor
    before: Tensor
    keys: Tensor

    def replace(self, members: list[list[int]], values: list[Tensor]) -> None:
        """Slots of the image are these tokens, by number among the image's, with these values."""
        p = self.prefix
        self.x = torch.stack([*self.x[:p], *values])
        sizes = [self.sizes[p:][m].sum() for m in members]
        self.sizes = torch.stack([*self.sizes[:p], *sizes])
        self.groups = [sorted(t for n in m for t in self.groups[n]) for m in members]


Reduce = Callable[[Tokens, int], None]
"""Reduces tokens to a number of them; in `map` it may leave what the block is to use."""


def replay(
    model: Any, image: Tensor, reduce: Reduce, *, at_input: bool, proportional: bool
) -> tuple[Tensor, list[list[list[int]]]]:
    """Logits, and the groups after each site, with the plan and the weights of the model."""
    x = model.norm_pre(model._pos_embed(model.patch_embed(image[None])))[0]
    prefix, none = model.num_prefix_tokens, x.new_empty(0)
    groups = [[n] for n in range(len(x) - prefix)]
    s = Tokens(x, x.new_ones(len(x)), groups, prefix, none, none, none)
    made = []
    for name, block in zip(model.site_names(), model.blocks, strict=True):
        _attend(block, s, proportional)
        kept = model.plan.get(name)
        if kept is not None and at_input:
            merged_from = s.map
            reduce(s, kept)
            if s.map is merged_from:  # no map was handed over
                _attend(block, s, proportional)
            made.append(s.groups)
        _, _, v = _qkv(block, s.x)
        y = (s.map @ v).transpose(0, 1).reshape(len(s.x), -1)
        s.x = s.x + block.attn.proj(y)
        if kept is not None and not at_input:
            reduce(s, kept)
            made.append(s.groups)
        s.before = s.map
        s.x = s.x + block.mlp(block.norm2(s.x))
    return model.forward_head(model.norm(s.x[None]))[0], made


def _qkv(block: Any, x: Tensor) -> Any:
    parts = block.attn.qkv(block.norm1(x)).view(len(x), 3, block.attn.num_heads, -1)
    return parts.permute(1, 2, 0, 3)


def _attend(block: Any, s: Tokens, proportional: bool) -> None:
    q, k, _ = _qkv(block, s.x)
    logits = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
    s.map = (logits + s.sizes.log() if proportional else logits).softmax(-1)
    s.keys = k.mean(0)


def create(backbone: str, method: str, **options: Any) -> tuple[Any, Tensor]:
    """A network in float64 with weights far from timm's small ones, and two images."""
    torch.manual_seed(0)
    size = SIZES[backbone]
    model: Any = ltm.create_model(backbone, method, image_size=size, num_classes=5, **options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("method."):
                parameter.normal_(std=0.2 if parameter.ndim > 1 else 0.5)
    return model.double().eval(), torch.randn(2, 3, size, size, dtype=torch.float64)


@torch.no_grad()
def assert_agrees(
    model: Any,
    images: Tensor,
    reduce: Reduce,
    *,
    at_input: bool = True,
    proportional: bool = False,
) -> float:
    """The same tokens in the same slots, in their order; logits within 1e-9. How far apart."""
    merges: list[Any] = []
    hook = model.method.register_forward_hook(lambda _m, _a, merge: merges.append(merge))
    logits = model(images)
    hook.remove()
    assert len(merges) == len(model.plan) > 0
    apart = 0.0
    for image, ours in zip(range(len(images)), logits, strict=True):
        expected, groups = replay(
            model, images[image], reduce, at_input=at_input, proportional=proportional
        )
        where = torch.arange(len(images[0].flatten()))[: model.patch_embed.num_patches]
        for merge, by_hand in zip(merges, groups, strict=True):
            slot = getattr(merge, "merge", merge).slot[image]
            where = slot[where]
            slots = [(where == n).nonzero().flatten().tolist() for n in range(merge.slots)]
            assert slots == by_hand
        apart = max(apart, float((ours - expected).abs().max()))
    assert apart < CLOSE
    return apart
