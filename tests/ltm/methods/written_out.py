"""A plain ViT for one image, written without any of the code under test.

Agreement tests hang a paper's formula, in loops, into its blocks: what comes out has to be what the
network with the method gives, in float64.

Legend: T all tokens, of which N of the image stand after the prefix, D channels, H heads, d
channels of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ltm

CLASSY, POOLED = "vit_tiny_patch16_224", "vit_nano_patch4_32"  # with a class token, without one
SIZES = {CLASSY: 96, POOLED: 32}

Groups = list[list[int]]
Rows = Sequence[Tensor] | Tensor


@dataclass
class State:
    """What a formula sees of a block, at its input or after its attention, and may replace.

    block: its number. kept: what the plan keeps here, or None. x: [T, D]. sizes: [T], as how many
    tokens each counts as a key, or [T, T], for each query. groups: which tokens of the image each
    one after the prefix stands for. normed: [T, D], what queries are made of. keys: [T, d], mean
    over heads. values: [H, T, d]. map: [H, T, T], query by key; at the input one that is put here
    is what the block uses. before: that of the block before.
    """

    x: Tensor
    sizes: Tensor
    groups: Groups
    prefix: int
    block: int
    kept: Any
    normed: Tensor
    keys: Tensor
    values: Tensor
    map: Tensor
    before: Tensor

    @property
    def tokens(self) -> Tensor:
        """[N, D]."""
        return self.x[self.prefix :]

    def class_attention(self) -> Tensor:
        """[H, N], from the class token, or the mean over all; to the tokens of the image."""
        rows = self.map[:, 0] if self.prefix else self.map.mean(1)
        return rows[:, self.prefix :]

    def replace(
        self, members: Groups, tokens: Rows | None = None, sizes: Rows | None = None
    ) -> None:
        """For each list of numbers of image tokens one: their mean weighted by size, or `tokens`;
        of their summed size, or `sizes`."""
        x, size = self.tokens, self.sizes[self.prefix :]
        if tokens is None:
            tokens = [(size[m, None] * x[m]).sum(0) / size[m].sum() for m in members]
        if sizes is None:
            sizes = [size[m].sum() for m in members]
        self.x = torch.stack([*self.x[: self.prefix], *tokens])
        self.sizes = torch.stack([*self.sizes[: self.prefix], *sizes])
        self.groups = [sorted(t for n in m for t in self.groups[n]) for m in members]


Formula = Callable[[State], None]


class Result(NamedTuple):
    """logits: [classes]. tokens: [T, D], normed. groups: those after each block."""

    logits: Tensor
    tokens: Tensor
    groups: list[Groups]


def network(
    model: Any,
    image: Tensor,
    formula: Formula,
    *,
    at_input: bool = False,
    proportional: bool = True,
) -> Result:
    """The network with the weights of timm's model, for an image [3, height, width].

    at_input: the formula acts there, and not between attention and MLP; the attention that it sees
    is that of the tokens as they arrive. proportional: attention knows sizes.
    """
    x = model.patch_embed(image[None])[0]
    groups = [[n] for n in range(len(x))]
    prefix = 0 if model.cls_token is None else 1
    if prefix:
        x = torch.cat([model.cls_token[0], x])
    x, none = x + model.pos_embed[0], x.new_empty(0)
    s = State(x, x.new_ones(len(x)), groups, prefix, 0, None, none, none, none, none, none)
    made = []
    for i, block in enumerate(model.blocks):
        s.block, s.kept = i, model.plan.get(f"blocks.{i}")
        _attend(block, s, proportional)
        if at_input:
            own = s.map
            formula(s)
            given = s.map
            _attend(block, s, proportional)
            s.map = s.map if given is own else given
        s.x = s.x + _linear((s.map @ s.values).transpose(0, 1).flatten(1), block.attn.proj)
        if not at_input:
            formula(s)
        made.append(s.groups)
        s.before = s.map
        hidden = F.gelu(_linear(_norm(s.x, block.norm2), block.mlp.fc1))
        s.x = s.x + _linear(hidden, block.mlp.fc2)
    tokens = _norm(s.x, model.norm)
    share = s.sizes if model.pool_by_size else tokens.new_ones(len(tokens))
    pooled = tokens[0] if prefix else (share[:, None] * tokens).sum(0) / share.sum()
    return Result(_linear(_norm(pooled, model.fc_norm), model.head), tokens, made)


def _attend(block: Any, s: State, proportional: bool) -> None:
    s.normed = _norm(s.x, block.norm1)
    qkv = _linear(s.normed, block.attn.qkv).view(len(s.x), 3, block.attn.num_heads, -1)
    q, k, s.values = qkv.permute(1, 2, 0, 3)
    logits = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
    power = (logits - logits.detach().amax(-1, keepdim=True)).exp()
    power = power * s.sizes if proportional else power
    s.map, s.keys = power / power.sum(-1, keepdim=True), k.mean(0)


def _linear(x: Tensor, layer: Any) -> Tensor:
    return F.linear(x, layer.weight, layer.bias)


def _norm(x: Tensor, norm: Any) -> Tensor:
    if isinstance(norm, nn.Identity):
        return x
    return F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps)


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def create(
    backbone: str, method: str, *, images: int = 2, calm: bool = False, **options: Any
) -> tuple[Any, Tensor]:
    """A network in float64 and images; its weights are far from timm's small ones.

    calm: only those of positions, queries, keys and values are, so that attention is more even.
    """
    torch.manual_seed(0)
    size = options.setdefault("image_size", SIZES[backbone])
    model: Any = ltm.create_model(backbone, method, num_classes=5, **options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if calm and name.endswith(("attn.qkv.weight", "pos_embed")):
                parameter.normal_(std=0.1)
            elif not calm and not name.startswith("method."):
                parameter.normal_(std=0.2 if parameter.ndim > 1 else 0.5)
    return model.double().eval(), torch.randn(images, 3, size, size, dtype=torch.float64)


@torch.no_grad()
def assert_agrees(
    model: Any, images: Tensor, formula: Formula, *, in_order: bool = False, **how: bool
) -> None:
    """The same tokens in the same slots, if need be in their order; logits within 1e-9."""
    goes: dict[str, Tensor] = {}  # [B, N, P], not 0 where a token goes

    def note(_method: Any, args: Any, merge: Any) -> None:
        slots = images.new_ones(len(images), merge.slots).diag_embed()
        goes[args[0].site.name] = merge.unmerge(slots)

    hook = model.method.register_forward_hook(note)
    logits = model(images)
    hook.remove()
    assert goes.keys() == model.plan.keys() > set()
    for i, image in enumerate(images):
        expected = network(model, image, formula, **how)
        ours: Groups = [[n] for n in range(model.patch_embed.num_patches)]
        for block, theirs in enumerate(expected.groups):
            if (went := goes.get(f"blocks.{block}")) is not None:
                members = [slot.nonzero().flatten().tolist() for slot in went[i].T]
                ours = [sorted(t for n in m for t in ours[n]) for m in members]
            found = [list(filter(None, groups)) for groups in (ours, theirs)]  # without padding
            one, other = found if in_order else map(sorted, found)
            assert one == other, (i, block)
        torch.testing.assert_close(logits[i], expected.logits, atol=1e-9, rtol=0)
        plain = network(model, image, lambda _: None).logits
        assert (plain - logits[i]).abs().max() > 1e-3, "nothing was merged"
