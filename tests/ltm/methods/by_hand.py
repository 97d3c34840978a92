"""A plain ViT written out, one image at a time, into which a test puts a paper's formulas."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import ltm

Groups = list[frozenset[int]]


@dataclass
class Tokens:
    """All tokens of one image, in the order that they lie in; those of the image after `prefix`.

    x: one vector a token. sizes: how many tokens each stands for. groups: which tokens of the image
    are in each, none for the prefix. keys: mean over heads, of the block's attention.
    """

    x: list[Tensor]
    sizes: list[float]
    groups: Groups
    prefix: int
    keys: list[Tensor] | None = None

    def chosen(self, index: list[int]) -> "Tokens":
        lists = (self.x, self.sizes, self.groups)
        return Tokens(*([old[i] for i in index] for old in lists), self.prefix)  # type: ignore[arg-type]

    def mean_into(self, a: int, b: int) -> None:
        """Token b becomes the mean of both weighted by size; a stays where it is."""
        both = self.sizes[a] + self.sizes[b]
        self.x[b] = (self.sizes[a] * self.x[a] + self.sizes[b] * self.x[b]) / both
        self.absorb(a, b)

    def absorb(self, a: int, b: int) -> None:
        self.sizes[b] += self.sizes[a]
        self.groups[b] |= self.groups[a]


Reduce = Callable[[int, Tokens], Tokens]


def cosine(a: Tensor, b: Tensor) -> float:
    return float((a @ b) / (a.norm() * b.norm()))


def run_by_hand(
    model: Any, images: Tensor, reduce: Reduce, *, proportional: bool, at_input: bool = False
) -> tuple[Tensor, list[list[Groups]]]:
    """Logits of timm's model when `reduce` acts in every block, and groups by image and block."""
    logits, made = [], []
    for image in images:
        x = model.norm_pre(model._pos_embed(model.patch_embed(image[None])))[0]
        prefix = model.num_prefix_tokens
        groups = [frozenset[int]()] * prefix + [frozenset({i}) for i in range(len(x) - prefix)]
        state = Tokens(list(x), [1.0] * len(x), groups, prefix)
        made.append([])
        for i, block in enumerate(model.blocks):
            if at_input:
                state = reduce(i, state)
            x = torch.stack(state.x)
            attention, T = block.attn, len(x)
            qkv = attention.qkv(block.norm1(x)).view(T, 3, attention.num_heads, -1)
            q, k, v = qkv.permute(1, 2, 0, 3)
            scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
            if proportional:
                scores = scores + x.new_tensor(state.sizes).log()
            y = (scores.softmax(-1) @ v).transpose(0, 1).reshape(T, -1)
            state.x = list(x + attention.proj(y))
            state.keys = list(k.mean(0))
            if not at_input:
                state = reduce(i, state)
            made[-1].append(list(state.groups[prefix:]))
            x = torch.stack(state.x)
            state.x = list(x + block.mlp(block.norm2(x)))
        logits.append(model.forward_head(model.norm(torch.stack(state.x)[None]))[0])
    return torch.stack(logits), made


def run_ours(model: Any, images: Tensor) -> tuple[Tensor, list[list[Groups]]]:
    """The same of a model of ours, whose sites may be some of the blocks."""
    merges: dict[str, Any] = {}
    hook = model.method.register_forward_hook(
        lambda _m, args, merge: merges.__setitem__(args[0].site.name, merge)
    )
    logits = model(images)
    hook.remove()
    made: list[list[Groups]] = []
    for image in range(len(images)):
        groups: Groups = [frozenset({i}) for i in range(model.patch_embed.num_patches)]
        made.append([])
        for name in model.site_names():
            if name in merges:
                merge = merges[name]
                into = [frozenset[int]()] * merge.slots
                for token, slot in enumerate(merge.slot[image].tolist()):
                    into[slot] |= groups[token]
                groups = into
            made[-1].append(groups)
    return logits, made


@torch.no_grad()
def assert_agrees(
    backbone: str,
    method: str,
    reduce: Reduce,
    *,
    image_size: int,
    proportional: bool,
    at_input: bool = False,
    **options: Any,
) -> float:
    """Decisions equal and logits within 1e-9, in float64; how far the logits are apart."""
    torch.manual_seed(0)
    shared = {"image_size": image_size, "num_classes": 7}
    model: Any = ltm.create_model(backbone, method, **shared, **options).double().eval()
    base: Any = ltm.create_model(backbone, "none", **shared).double().eval()
    for parameter in base.parameters():  # far from where timm starts: every token is its own
        parameter.normal_(std=0.2 if parameter.ndim > 1 else 0.5)
    model.load_state_dict({**model.state_dict(), **base.state_dict()})
    images = torch.randn(3, 3, image_size, image_size, dtype=torch.float64)
    expected, groups = run_by_hand(
        base, images, reduce, proportional=proportional, at_input=at_input
    )
    logits, ours = run_ours(model, images)
    plain = base(images)
    for image, (by_us, by_hand) in enumerate(zip(ours, groups, strict=True)):
        for block, (a, b) in enumerate(zip(by_us, by_hand, strict=True)):
            assert sorted(map(sorted, a)) == sorted(map(sorted, b)), (image, block)
    apart = float((logits - expected).abs().max())
    assert apart < 1e-9
    assert float((plain - expected).abs().max()) > 1e-3, "nothing was merged"
    return apart
