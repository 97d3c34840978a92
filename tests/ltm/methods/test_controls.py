"""The controls: what merges by chance, and what merges evenly, whatever the tokens are like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import ltm
from ltm.methods import build_method

if TYPE_CHECKING:
    from ltm.merge import Merge

TINY = "vit_nano_patch4_32"
SMALL = "vit_small_patch16_224"


def merges_of(model: Any, x: Tensor) -> list[Merge]:
    seen: list[Merge] = []
    hook = model.method.register_forward_hook(lambda _m, _args, merge: seen.append(merge))
    with torch.no_grad():
        model.eval()(x)
    hook.remove()
    return seen


@torch.no_grad()
def assert_network_is_that_of(
    model: Any, base: Any, images: Tensor, groups: dict[int, list[list[int]]]
) -> None:
    """The base network, in whose blocks groups of tokens become their means, slot by slot.

    Attention after a merge is spelled out: a token that stands for s has s x exp(logit).
    """
    state = model.double().eval().state_dict()
    base.double().eval().load_state_dict(state)  # a control adds nothing to it
    images = images.double()
    x = base.norm_pre(base.patch_drop(base._pos_embed(base.patch_embed(images))))
    prefix = base.num_prefix_tokens
    sizes = torch.ones(x.shape[1] - prefix, dtype=x.dtype)
    for i, block in enumerate(base.blocks):
        attention, normed = block.attn, block.norm1(x)
        heads = attention.num_heads
        q, k, v = attention.qkv(normed).view(*x.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4)
        mass = torch.cat([sizes.new_ones(prefix), sizes])
        power = mass * (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).exp()
        y = (power / power.sum(-1, keepdim=True)) @ v
        x = x + attention.proj(y.transpose(1, 2).flatten(2))
        if i in groups:
            slots = []
            for group in groups[i]:
                weight = sizes[group] / sizes[group].sum()
                slots.append(sum(w * x[:, prefix + n] for w, n in zip(weight, group, strict=True)))
            x = torch.cat([x[:, :prefix], torch.stack(slots, 1)], 1)  # type: ignore[arg-type]
            sizes = torch.stack([sizes[group].sum() for group in groups[i]])
        x = x + block.mlp(block.norm2(x))
    logits = base.forward_head(base.norm(x))
    torch.testing.assert_close(model(images), logits, rtol=0, atol=1e-9)


def create(backbone: str, method: str, size: int, **options: Any) -> tuple[Any, Any, Tensor]:
    torch.manual_seed(0)
    own = {"image_size": size, "num_classes": 5}
    model = ltm.create_model(backbone, method, **own, **options)
    return model, ltm.create_model(backbone, "none", **own), torch.randn(3, 3, size, size)


def groups_of(merge: Merge) -> list[list[int]]:
    """The sources of each slot, which are those of the first image in all others, too."""
    G = merge.weights()
    assert G is not None
    assert all(G[0].equal(other) for other in G[1:])
    return [G[0, :, p].nonzero().flatten().tolist() for p in range(merge.slots)]


def test_random_merges_are_means_of_what_merged() -> None:
    model, base, x = create(SMALL, "random", 96, compression_ratio=0.6)
    groups = {i: groups_of(merge) for i, merge in enumerate(merges_of(model, x))}
    assert [len(each) for each in groups.values()] == [*model.plan.values()]
    assert len(groups) == 12
    before = 36
    for each in groups.values():
        assert sorted(n for group in each for n in group) == [*range(before)]
        before = len(each)
    assert_network_is_that_of(model, base, x, groups)


def test_chance_is_that_of_the_seed_alone() -> None:
    def slots(seed: int, images: int = 2, ratio: float = 0.5) -> list[list[list[int]]]:
        torch.manual_seed(images)
        model: Any = ltm.create_model(TINY, "random", compression_ratio=ratio, seed=seed)
        return [groups_of(merge) for merge in merges_of(model, torch.randn(images, 3, 32, 32))]

    assert slots(0) == slots(0, images=5)
    assert slots(0) != slots(1)
    # every token is as often alone as any other
    alone = torch.zeros(64)
    for seed in range(200):
        of = build_method("random", {}, {"seed": seed}).slots_of(64, 32, "blocks.0")
        alone += torch.tensor([of.count(slot) == 1 for slot in of])
    assert (alone - alone.mean()).abs().max() < 5 * alone.mean().sqrt()
    model: Any = ltm.create_model(TINY, "random", compression_ratio=0.5)
    first = groups_of(merges_of(model, torch.randn(2, 3, 32, 32))[0])
    model.set_compression(0.7)
    assert len(groups_of(merges_of(model, torch.randn(2, 3, 32, 32))[0])) > len(first)
    model.set_compression(0.5)
    assert groups_of(merges_of(model, torch.randn(2, 3, 32, 32))[0]) == first
    with pytest.raises(ltm.FieldError, match="option 'seed' is -1, allowed is a whole number"):
        ltm.create_model(TINY, "random", seed=-1)


@pytest.mark.parametrize("method", ["random", "uniform"])
def test_rows_and_columns_merge_where_a_grid_stays(method: str) -> None:
    model: Any = ltm.create_model(TINY, method, plan={"blocks.1": (5, 6)})
    (merge,) = merges_of(model, torch.randn(2, 3, 32, 32))
    groups = groups_of(merge)
    rows = [sorted({n // 8 for n in groups[6 * r]}) for r in range(5)]
    columns = [sorted({n % 8 for n in groups[c]}) for c in range(6)]
    assert groups == [
        [8 * i + j for i in row for j in column] for row in rows for column in columns
    ]
    assert sorted(i for row in rows for i in row) == [*range(8)]
    assert sorted(j for column in columns for j in column) == [*range(8)]


def test_uniform_merges_are_means_of_neighbours() -> None:
    model, base, x = create(SMALL, "uniform", 96, plan={"blocks.0": (5, 4), "blocks.2": (3, 3)})
    groups = {0: [], 2: []}  # type: dict[int, list[list[int]]]
    for block, (h, w), (rows, columns) in ((0, (6, 6), (5, 4)), (2, (5, 4), (3, 3))):
        for r in range(rows):
            for c in range(columns):
                # the tokens whose centres lie in the slot's part of the image
                groups[block].append(
                    [
                        i * w + j
                        for i in range(h)
                        for j in range(w)
                        if r <= (i + 0.5) / h * rows < r + 1
                        and c <= (j + 0.5) / w * columns < c + 1
                    ]
                )
    assert [[*groups_of(merge)] for merge in merges_of(model, x)] == [*groups.values()]
    assert_network_is_that_of(model, base, x, groups)


def test_half_of_a_grid_is_average_pooling() -> None:
    model: Any = ltm.create_model(TINY, "uniform", plan={"blocks.0": (4, 4)})
    (merge,) = merges_of(model, torch.randn(2, 3, 32, 32))
    x = torch.randn(2, 64, 7)
    pooled = F.avg_pool2d(x.transpose(1, 2).view(2, 7, 8, 8), 2)
    torch.testing.assert_close(merge(x), pooled.flatten(2).transpose(1, 2))
    assert merge.sizes().eq(4).all()


@pytest.mark.parametrize("method", ["random", "uniform"])
def test_a_control_has_no_weights_and_goes_where_the_network_goes(method: str) -> None:
    base = ltm.create_model(TINY, "none")
    model: Any = ltm.create_model(TINY, method, compression_ratio=0.5)
    assert model.state_dict().keys() == base.state_dict().keys()
    half = model.to(torch.bfloat16)
    assert half(torch.randn(2, 3, 32, 32).bfloat16()).isfinite().all()
    assert {x.device.type for x in model.to("meta").buffers()} == {"meta"}
