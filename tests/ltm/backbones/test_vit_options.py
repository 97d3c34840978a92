"""Every option of timm's VisionTransformer: at ratio 1 the result is timm's, or it is refused."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import timm
import torch
from timm.layers import (
    Attention,
    LayerNorm,
    PatchEmbed,
    RmsNorm,
    SwiGLU,
    SwiGLUPacked,
)
from timm.models.vision_transformer import (
    DiffParallelScalingBlock,
    ParallelThingsBlock,
    ResPostBlock,
)
from torch import nn

from ltm.backbones import MergingModel, find_backbone
from ltm.errors import FieldError
from ltm.methods import build_method

from .conftest import images

SMALL: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 4,
    "embed_dim": 32,
    "depth": 3,
    "num_heads": 2,
    "num_classes": 5,
}
SAME: list[dict[str, Any]] = [
    {},
    {"img_size": (32, 24)},
    {"patch_size": (4, 8)},
    {"in_chans": 1},
    {"num_classes": 0},
    {"global_pool": "", "class_token": True},
    {"global_pool": "avg"},
    {"global_pool": "avg", "fc_norm": False},
    {"global_pool": "avg", "pool_include_prefix": True},
    {"global_pool": "avgmax"},
    {"global_pool": "max"},
    {"global_pool": "map"},
    {"global_pool": "map", "pool_include_prefix": True},
    {"global_pool": "prr"},
    {"class_token": False, "global_pool": "avg"},
    {"reg_tokens": 3},
    {"class_token": False, "reg_tokens": 2, "global_pool": "avg"},
    {"no_embed_class": True},
    {"no_embed_class": True, "reg_tokens": 2},
    {"pos_embed": "none"},
    {"qkv_bias": False},
    {"proj_bias": False},
    {"qk_norm": True},
    {"scale_attn_norm": True},
    {"scale_mlp_norm": True},
    {"init_values": 0.1},
    {"pre_norm": True},
    {"final_norm": False},
    {"fc_norm": True},
    {"dynamic_img_pad": True},
    {"mlp_ratio": 2.0},
    {"drop_rate": 0.2},
    {"pos_drop_rate": 0.2},
    {"proj_drop_rate": 0.2},
    {"attn_drop_rate": 0.2},
    {"drop_path_rate": 0.5},
    {"weight_init": "jax"},
    {"fix_init": True},
    {"embed_norm_layer": LayerNorm},
    {"norm_layer": RmsNorm},
    {"act_layer": "relu"},
    {"mlp_layer": SwiGLU},
    {"mlp_layer": partial(SwiGLUPacked, act_layer=nn.SiLU, gate_last=False)},
    {"attn_layer": Attention},
    {"embed_layer": partial(PatchEmbed, norm_layer=LayerNorm)},
    {"dtype": torch.float64},
]
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"patch_drop_rate": 0.3}, "patch_drop_rate", r"patch_drop_rate is 0.3, allowed is 0 where"),
    ({"dynamic_img_size": True}, "dynamic_img_size", "a plan is for one image size"),
    ({"block_fn": ResPostBlock}, "backbone", "has blocks ResPostBlock"),
    ({"block_fn": ParallelThingsBlock}, "backbone", "has blocks ParallelThingsBlock"),
    ({"block_fn": DiffParallelScalingBlock}, "backbone", "has blocks DiffParallelScalingBlock"),
    ({"attn_layer": "diff"}, "backbone", "has blocks Block with DiffAttention"),
    ({"img_size": 34, "dynamic_img_pad": True}, "image_size", "multiples of the 4 x 4 pixels"),
    ({"img_size": 34}, "image_size", "multiples of the 4 x 4 pixels"),
]


def named(options: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in options.items()) or "none"


def base_of(options: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    return timm.models.vision_transformer.VisionTransformer(**SMALL | options)


def merging(base: Any, method: str, ratio: float) -> Any:
    _, family = find_backbone("vit_small_patch16_224")
    model: MergingModel = family.from_timm(base)
    model.timm_name, model.image_size = "vit", base.patch_embed.img_size
    model.attach(lambda sites: build_method(method, sites, {}), ratio)
    return model


def input_of(base: Any) -> torch.Tensor:
    x = images(32)[:, : base.in_chans]
    height, width = base.patch_embed.img_size
    dtype = next(base.parameters()).dtype
    return x[:, :, :height, :width].to(dtype)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("options", SAME, ids=named)
def test_at_ratio_1_the_result_is_timms(options: dict[str, Any], training: bool) -> None:
    base = base_of(options).train(training)
    x = input_of(base)
    torch.manual_seed(1)
    expected = base(x)
    model = merging(base, "ltm", 1).train(training)
    torch.manual_seed(1)
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", SAME, ids=named)
def test_below_it_images_do_not_depend_on_each_other(options: dict[str, Any]) -> None:
    base = base_of(options)
    x = input_of(base)
    model = merging(base, "ltm", 0.5).eval()
    with torch.no_grad():
        together = model(x)
        alone = torch.cat([model(one[None]) for one in x])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "field", "says"), REFUSED, ids=lambda x: named(x) if isinstance(x, dict) else ""
)
def test_what_does_not_go_with_merging_is_refused(
    options: dict[str, Any], field: str, says: str
) -> None:
    with pytest.raises(FieldError, match=says) as caught:
        merging(base_of(options), "ltm", 0.5)
    assert caught.value.field == field


def test_no_option_of_timms_is_forgotten() -> None:
    from inspect import signature

    known = {key for options in [*SAME, *(one for one, *_ in REFUSED), SMALL] for key in options}
    every = {*signature(timm.models.vision_transformer.VisionTransformer.__init__).parameters}
    assert every - known == {"self", "device"}
