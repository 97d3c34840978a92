"""What methods may ask of a backbone, may hand it, and may give back, by methods of a few lines."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import ltm
from ltm.backbones import vit
from ltm.errors import FieldError
from ltm.interfaces import SiteInput
from ltm.merge import Assigned

from ...marks import fast_only
from ..declared import assert_declared
from ..networks import SIZES
from . import toys
from .conftest import images, with_method
from .nets import classy, pooled


def start(model: Any, x: Tensor) -> Tensor:
    return model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(x))))


def qkv(block: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys, values [B, H, T, d] of a block's input x [B, T, D]."""
    attention, (B, T, _) = block.attn, x.shape
    parts = attention.qkv(block.norm1(x)).chunk(3, -1)
    q, k, v = (part.view(B, T, attention.num_heads, -1).transpose(1, 2) for part in parts)
    return q, k, v


def softmax_map(block: Any, x: Tensor) -> Tensor:
    """The attention map [B, H, T, T] of a block's input."""
    q, k, _ = qkv(block, x)
    return (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)


def through(blocks: Any, x: Tensor) -> Tensor:
    for block in blocks:
        x = block(x)
    return x


def logits(model: Any, tokens: Tensor) -> Tensor:
    out: Tensor = model.forward_head(model.norm(tokens))
    return out


# --- where a method acts


@torch.no_grad()
def test_on_the_input_attention_runs_on_fewer_tokens() -> None:
    model, x = classy(toys.OnInput, {"blocks.2": 5}), images(64)
    tokens = through(model.blocks[:2], start(model, x))
    expected = logits(model, through(model.blocks[2:], tokens[:, : 1 + 5]))
    torch.testing.assert_close(model(x), expected)
    torch.testing.assert_close(model.method.seen[0].tokens, tokens[:, 1:])


@torch.no_grad()
def test_after_attention_all_tokens_were_attended_to() -> None:
    model, x = classy(toys.Toy, {"blocks.2": 5}), images(64)
    tokens = start(model, x)
    attended = through(model.blocks[:2], tokens)
    block = model.blocks[2]
    attended = attended + block.attn(block.norm1(attended))[0]
    kept = attended[:, : 1 + 5]
    expected = logits(model, model.blocks[3](kept + block.mlp(block.norm2(kept))))
    torch.testing.assert_close(model(x), expected)


def test_acting_on_the_input_costs_less_than_acting_after_attention() -> None:
    plan = {"blocks.1": 4}
    early, late = (ltm.count(classy(toy, plan)).gmacs for toy in (toys.OnInput, toys.Toy))
    assert early < late


# --- what a method may see


@torch.no_grad()
@pytest.mark.parametrize("toy", [toys.Everything, toys.EverythingOnInput])
@pytest.mark.parametrize("make", [classy, pooled])
def test_evidence_is_that_of_the_blocks_own_attention(make: Any, toy: Any) -> None:
    model = make(toy, {"blocks.1": 6})
    x, prefix = images(64 if make is classy else 32), model.num_prefix_tokens
    entering = model.blocks[0](start(model, x))
    model(x)
    (given,) = model.method.seen
    block = model.blocks[1]
    _, k, v = qkv(block, entering)
    attention = softmax_map(block, entering)
    expected = {
        "normed_input": block.norm1(entering)[:, prefix:],
        "keys": k.mean(1)[:, prefix:],
        "value_norms": v.norm(dim=-1)[..., prefix:],
        "received": attention.mean((1, 2))[:, prefix:],
        "class_attention": (attention[:, :, 0] if prefix else attention.mean(2))[..., prefix:],
        "attention": attention,
    }
    for name, value in expected.items():
        torch.testing.assert_close(getattr(given, name), value, msg=name)
    assert given.prefix == prefix
    assert given.received_before is None


@torch.no_grad()
def test_what_is_not_asked_for_is_not_shown() -> None:
    model = classy(toys.Toy, {"blocks.1": 6})
    model(images(64))
    (given,) = model.method.seen
    shown = set(toys.Everything.needs) | {"received_before"}
    assert all(getattr(given, name) is None for name in shown)


@torch.no_grad()
def test_class_attention_chooses_tokens() -> None:
    model, x = classy(toys.ByClassAttention, {"blocks.1": 6}), images(64)
    entering = model.blocks[0](start(model, x))
    model(x)
    (given,) = model.method.seen
    attention = softmax_map(model.blocks[1], entering)[:, :, 0, 1:]
    torch.testing.assert_close(given.class_attention, attention)
    best = attention.mean(1).topk(6).indices.sort(-1).values
    assert torch.equal(model.method.decide(given).index, best)


def test_one_row_of_the_map_costs_less_than_the_map() -> None:
    plan = {"blocks.1": 6}
    row = ltm.count(classy(toys.ByClassAttention, plan)).gmacs
    none = ltm.count(classy(toys.Toy, plan)).gmacs
    heads_times_tokens_times_dim = 17 * 192 / 1e9
    assert row - none == pytest.approx(heads_times_tokens_times_dim, rel=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("make", [classy, pooled])
def test_attention_of_the_block_before_is_kept(make: Any) -> None:
    model = make(toys.ByReceivedBefore, {"blocks.1": 12, "blocks.2": 6})
    x, prefix = images(64 if make is classy else 32), model.num_prefix_tokens
    tokens = start(model, x)
    model(x)
    first, second = model.method.seen
    received = softmax_map(model.blocks[0], tokens).mean((1, 2))[:, prefix:]
    torch.testing.assert_close(first.received_before, received)
    # tokens were dropped at the input of block 1, whose attention is that of the others
    entering = model.method.decide(first).after(prefix, model.blocks[0](tokens))
    received = softmax_map(model.blocks[1], entering).mean((1, 2))[:, prefix:]
    torch.testing.assert_close(second.received_before, received)


@torch.no_grad()
def test_slots_have_received_what_their_sources_have() -> None:
    model, x = pooled(toys.PairsByReceivedBefore, {"blocks.1": 32, "blocks.2": 16}), images(32)
    entering = model.blocks[0](start(model, x))
    model(x)
    received = softmax_map(model.blocks[1], entering).mean((1, 2))
    torch.testing.assert_close(
        model.method.seen[1].received_before, received.view(2, 32, 2).sum(-1)
    )


def test_before_the_first_block_there_is_no_attention() -> None:
    with pytest.raises(FieldError, match=r"plan merges at blocks\.0, before which") as caught:
        classy(toys.ByReceivedBefore, {"blocks.0": 6})
    assert caught.value.field == "plan"


# --- what a method may hand over and give back


@torch.no_grad()
@pytest.mark.parametrize("make", [classy, pooled])
def test_a_map_that_is_handed_over_takes_the_place_of_a_new_one(make: Any) -> None:
    x = images(64 if make is classy else 32)
    tokens = 16 if make is classy else 64
    model = make(toys.HandsMap, {"blocks.1": tokens // 2})
    prefix, block = model.num_prefix_tokens, model.blocks[1]
    entering = model.blocks[0](start(model, x))
    attention = softmax_map(block, entering)

    def pairs(y: Tensor, dim: int, how: str) -> Tensor:
        """Each two tokens of the image along a dimension, added up or averaged."""
        own, image = y.split([prefix, tokens], dim)
        image = image.unflatten(dim, (-1, 2))
        return torch.cat([own, getattr(image, how)(dim + 1)], dim)

    merged = pairs(entering, 1, "mean")
    attention = pairs(pairs(attention, 3, "sum"), 2, "mean")
    torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:3]))
    _, _, v = qkv(block, merged)
    y = (attention @ v).transpose(1, 2).flatten(2)
    merged = merged + block.attn.proj(y)
    merged = merged + block.mlp(block.norm2(merged))
    expected = logits(model, through(model.blocks[2:], merged))
    torch.testing.assert_close(model(x), expected)


def test_a_map_that_is_handed_over_saves_queries_and_keys() -> None:
    """Two of three parts of qkv, and the product of queries and keys, for the merged tokens."""
    plan, D, T = {"blocks.1": 8}, 192, 9

    class OwnMap(toys.HandsMap):
        def decide(self, given: SiteInput) -> Any:
            return super().decide(given).merge  # type: ignore[attr-defined]

    handed, own = (ltm.count(classy(toy, plan)).gmacs for toy in (toys.HandsMap, OwnMap))
    assert own - handed == pytest.approx((2 * T * D * D + T * T * D) / 1e9, rel=1e-3)


@torch.no_grad()
def test_slots_may_be_sums() -> None:
    model, x = classy(toys.Sums, {"blocks.1": 6}), images(64)
    seen: list[Tensor] = []
    model.blocks[1].norm2.register_forward_hook(lambda _m, args, _o: seen.append(args[0]))
    model(x)
    (given,) = model.method.seen
    merge = model.method.decide(given)
    assert_declared(given, merge)
    torch.testing.assert_close(seen[0][:, 6], given.tokens[:, 5:].sum(1))
    torch.testing.assert_close(merge.sizes()[:, -1], torch.full((2,), 11.0))
    back = merge.unmerge(merge(given.tokens))
    torch.testing.assert_close(back[:, 5:], seen[0][:, 6:7].expand(-1, 11, -1))


@torch.no_grad()
def test_slots_may_be_transformed_tokens() -> None:
    model, x = pooled(toys.Normalised, {"blocks.1": 8}), images(32)
    model(x)
    (given,) = model.method.seen
    merge = model.method.decide(given)
    assert_declared(given, merge)
    assert not merge.linear
    normed = torch.nn.functional.layer_norm(given.tokens, (64,))
    torch.testing.assert_close(merge(given.tokens), merge.weights().transpose(1, 2) @ normed)
    features = torch.randn(2, 64, 7)  # of another width: without the transform
    torch.testing.assert_close(
        merge.alongside(features), merge.weights().transpose(1, 2) @ features
    )


# --- all families


@pytest.mark.parametrize(
    ("backbone", "plan"),
    [
        ("swin_nano_patch2_window4_32", {"layers.2": (4, 2)}),
        ("mobilevit_xxs", {"stages.2.1": (4, 2)}),
        ("efficientvit_b0", {"stages.2": (4, 2)}),
        ("vit_nano_patch4_32", {"blocks.1": (8, 4)}),
    ],
)
def test_every_family_merges_at_an_input(backbone: str, plan: Any) -> None:
    model, x = with_method(backbone, toys.PairsOnInput, plan), images(SIZES[backbone])
    model.train()(x).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@torch.no_grad()
def test_efficientvit_merges_before_its_linear_attention() -> None:
    model = with_method("efficientvit_b0", toys.PairsOnInput, {"stages.2": (4, 2)})
    seen: list[torch.Size] = []
    block = next(b for b in model.stages[2].blocks if hasattr(b, "context_module"))
    block.context_module.register_forward_hook(lambda _m, args, _o: seen.append(args[0].shape))
    model(images(64))
    assert seen[0][-2:] == (4, 2)


@torch.no_grad()
def test_mobilevit_shows_the_mean_over_its_pixels() -> None:
    class Looks(toys.PairsOnInput):
        acts_on = "attended"
        needs = frozenset({"keys", "value_norms", "received", "class_attention", "normed_input"})

    model = with_method("mobilevit_xxs", Looks, {"stages.2.1": (4, 2)})
    model(images(64))
    (given,) = model.method.seen
    heads = model.stages[2][1].transformer[0].attn.num_heads
    assert given.tokens.shape == given.normed_input.shape == (2, 16, given.site.dim)
    assert given.keys.shape == (2, 16, given.site.dim // heads)
    assert given.value_norms.shape == given.class_attention.shape == (2, heads, 16)
    torch.testing.assert_close(given.received.sum(1), torch.ones(2))
    torch.testing.assert_close(given.class_attention.mean(1), given.received)


@pytest.mark.parametrize(
    ("backbone", "toy", "says"),
    [
        ("swin_nano_patch2_window4_32", toys.ByClassAttention, "class_attention, value_norms"),
        ("efficientvit_b0", toys.ByReceivedBefore, "received_before"),
        ("mobilevit_xxs", toys.HandsMap, "attention, allowed is .* mobilevit_xxs shows: class_"),
        ("mobilevit_xxs", toys.Varies, "a number that differs, allowed is .* needs a grid"),
    ],
)
def test_what_a_family_cannot_offer_is_named(backbone: str, toy: Any, says: str) -> None:
    with pytest.raises(FieldError, match=says) as caught:
        with_method(backbone, toy, 0.5)
    assert caught.value.field == "method"


def test_pooling_that_takes_in_padding_is_refused() -> None:
    with pytest.raises(FieldError, match="the pooling 'prr'"):
        classy(toys.Varies, 0.5, global_pool="prr")


# --- in use


@pytest.mark.parametrize(
    "toy", [toys.OnInput, toys.ByClassAttention, toys.ByReceivedBefore, toys.HandsMap, toys.Sums]
)
def test_what_is_computed_again_has_the_same_gradients(toy: Any) -> None:
    gradients: list[list[Tensor]] = []
    for checkpointing in (False, True):
        model = classy(toy, {"blocks.1": 8, "blocks.2": 4})
        model.set_grad_checkpointing(checkpointing)
        model.train()(images(64)).square().mean().backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(gradient is not None for gradient in gradients[0])
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    "toy",
    fast_only(
        [toys.OnInput, toys.ByClassAttention, toys.ByReceivedBefore, toys.HandsMap],
        [toys.ByReceivedBefore],
    ),
)
def test_compile_breaks_no_graph(toy: Any) -> None:
    model, x = classy(toy, {"blocks.1": 8}), images(64)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x), atol=1e-4, rtol=1e-4)


def test_a_map_after_the_attention_comes_too_late() -> None:
    class Late(toys.HandsMap):
        acts_on = "attended"

    with pytest.raises(AssertionError, match="too late"):
        classy(Late, {"blocks.1": 8})(images(64))


def test_plain_attention_is_the_fused_one() -> None:
    """Nothing is asked for: no map is made, and the linear layer is timm's."""
    model = classy(toys.Toy, {"blocks.1": 6})
    assert isinstance(model, vit.MergingViT)
    merge = model.method.decide(SiteInput(torch.zeros(1, 16, 192), model.sites["blocks.1"]))
    assert not isinstance(merge, Assigned)
