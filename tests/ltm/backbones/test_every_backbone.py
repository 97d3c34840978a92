"""Every kind of backbone that people have, with LTM and with ToMe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import timm
import torch

import ltm
from ltm.backbones import find_backbone, list_backbones
from ltm.backbones._rotary import Rotary
from ltm.backbones._windows import add_to_logits
from ltm.backbones.swinv2 import ResizedCosineAttention
from ltm.merge import Assigned

from ..networks import NETWORKS, create, images, plain
from ..test_export import assert_onnx_equals

if TYPE_CHECKING:
    from pathlib import Path

backbones = pytest.mark.parametrize("backbone", NETWORKS)
methods = pytest.mark.parametrize("method", ["ltm", "tome"])


@backbones
def test_ratio_1_is_timms_network_to_the_bit(backbone: str) -> None:
    base, x = plain(backbone), images(backbone)
    with torch.no_grad():
        assert torch.equal(create(backbone, compression_ratio=1.0)(x), base(x))


@backbones
@methods
def test_it_merges_counts_and_learns(backbone: str, method: str) -> None:
    model, x = create(backbone, method, compression_ratio=0.5), images(backbone, 3)
    with torch.no_grad():
        logits = model(x)
        torch.testing.assert_close(model(x[1:2]), logits[1:2], atol=1e-5, rtol=1e-4)
        assert not torch.allclose(logits, plain(backbone)(x), atol=1e-4)
    if "swin" not in backbone:  # so small a map is padded to whole windows
        assert ltm.count(model).gmacs < ltm.count(plain(backbone)).gmacs
    model.train()(x).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@backbones
@methods
def test_a_heatmap_shows_what_went_into_a_token(backbone: str, method: str) -> None:
    model, x = create(backbone, method, compression_ratio=0.5), images(backbone)
    heat = ltm.heatmap(model, x[0], (1, 1))
    assert heat.weights.sum() == pytest.approx(1, abs=1e-5)
    assert heat.weights[heat.target] > 0
    assert heat.picture(x[0].clamp(0, 1)).shape == x[0].shape


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "method"),
    [
        *(("vit_small_patch16_dinov3", "ltm"), ("vit_small_patch16_dinov3", "tome")),
        *(("vit_small_patch16_rope_mixed_224", "ltm"), ("swinv2_nano_window4_32", "ltm")),
        *(("mobilevitv2_050", "ltm"), ("deit_tiny_distilled_patch16_224", "tome")),
    ],
)
def test_onnx_equals_it_for_any_batch(backbone: str, method: str, tmp_path: Path) -> None:
    model, x = create(backbone, method, compression_ratio=0.5), images(backbone, 4)
    batch = {"x": {0: torch.export.Dim("batch", min=1, max=64)}}
    with torch.no_grad():
        program = torch.export.export(model, (x[:2],), dynamic_shapes=(batch["x"],))
        assert_onnx_equals(program, x, model(x), tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        *("vit_small_patch16_dinov3", "eva02_small_patch14_336", "vit_pe_core_base_patch16_224"),
        *("swinv2_tiny_window8_256", "mobilevitv2_100", "deit_small_distilled_patch16_224"),
        *("vit_small_r26_s32_224", "deit3_small_patch16_224", "vit_small_patch14_dinov2"),
    ],
)
def test_backbones_that_people_have_are_listed(name: str) -> None:
    assert name in list_backbones()
    assert find_backbone(name)[0] == name


# --- rotary positions


def angles(table: torch.Tensor) -> torch.Tensor:
    sine, cosine = table.chunk(2, -1)
    return torch.atan2(sine, cosine)


def together(slot: list[list[int]]) -> Assigned:
    """Slots that are even means of the tokens that are in them."""
    slots = torch.tensor(slot)
    return Assigned.normalised(slots, torch.ones(slots.shape), max(slot[0]) + 1)


def table_of(angle: torch.Tensor) -> torch.Tensor:
    return torch.cat([angle.sin(), angle.cos()], -1)


def test_a_slot_is_turned_by_the_mean_of_its_sources_angles() -> None:
    angle = torch.tensor([0.1, 0.3, 1.0, 2.0])[:, None].expand(4, 6)
    merge = together([[0, 0, 1, 1], [0, 1, 1, 1]])
    merged = Rotary(table_of(angle)).merged(merge).here
    assert merged.shape == (2, 1, 2, 12)
    first, second = angles(merged)[:, 0, :, 0]
    torch.testing.assert_close(first, torch.tensor([0.2, 1.5]))
    torch.testing.assert_close(second[0], torch.tensor(0.1))
    sine, cosine = angle[1:, 0].sin().sum(), angle[1:, 0].cos().sum()
    torch.testing.assert_close(second[1], torch.atan2(sine, cosine))


def test_angles_that_cancel_turn_nothing() -> None:
    angle = torch.tensor([0.0, torch.pi])[:, None].expand(2, 4)
    merged = Rotary(table_of(angle)).merged(together([[0, 0]])).here
    torch.testing.assert_close(merged, table_of(torch.zeros(1, 1, 1, 4)))


def test_each_block_may_have_positions_of_its_own() -> None:
    angle = torch.rand(3, 2, 4, 5)  # depth, heads, tokens
    rotary = Rotary(table_of(angle), by_depth=True)
    merged = rotary.merged(together([[0, 1, 2, 2]]))
    for depth in range(3):
        assert torch.equal(rotary.at(depth).here, table_of(angle[depth]))
        here = angles(merged.at(depth).here)
        assert here.shape == (1, 2, 3, 5)
        torch.testing.assert_close(here[0, :, :2], angle[depth, :, :2])
        torch.testing.assert_close(here[0, :, 2], angle[depth, :, 2:].mean(1))


@torch.no_grad()
def test_tokens_that_stay_keep_their_places() -> None:
    """Dropping all but some tokens is timm's attention among those, each at its own place."""
    model, x = (
        create("vit_small_patch16_dinov3", "central", plan={"blocks.1": 4}),
        images("vit_small_patch16_dinov3"),
    )
    base = plain("vit_small_patch16_dinov3")
    tokens, table = base._pos_embed(base.patch_embed(x))
    prefix = base.num_prefix_tokens
    tokens = base.blocks[0](tokens, rope=table)
    block, normed = base.blocks[1], base.blocks[1].norm1(tokens)
    tokens = tokens + block.gamma_1 * block.attn(normed, rope=table)
    (merge,) = ltm.merges(model, x)
    kept = merge.merge.kept(torch.arange(16).expand(2, -1))
    assert kept is not None
    at = torch.cat([torch.arange(prefix).expand(2, -1), kept + prefix], 1)
    tokens = tokens.gather(1, at[..., None].expand(-1, -1, tokens.shape[-1]))
    tokens = tokens + block.gamma_2 * block.mlp(block.norm2(tokens))
    torch.testing.assert_close(model(x), base.forward_head(base.norm(tokens)))


# --- windows of Swin V2


@torch.no_grad()
def test_the_bias_of_the_window_that_timm_built_is_timms() -> None:
    attention: Any = timm.create_model("swinv2_tiny_window8_256").layers[2].blocks[0].attn
    attention.__class__ = ResizedCosineAttention
    for parameter in attention.cpb_mlp.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(4, 64, attention.dim)
    expected = attention(x)
    bias = attention._bias((8, 8))
    assert bias.shape == (attention.num_heads, 64, 64)
    q, k, v = attention.qkv(x).unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    cosine = torch.cosine_similarity(q[:, :, :, None], k[:, :, None], dim=-1)
    scale = attention.logit_scale.clamp(max=torch.tensor(100.0).log()).exp()
    y = add_to_logits(cosine * scale, bias, None).softmax(-1) @ v
    y = attention.proj(y.transpose(1, 2).flatten(2))
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-4)
    smaller = attention._bias((7, 6))
    torch.testing.assert_close(smaller.diagonal(dim1=1, dim2=2), bias[:, 0, :1].expand(-1, 42))
