"""Counting: known figures, both conventions, and no trace left on model or torch."""

import pytest
import timm
import torch

import ltm


@pytest.mark.parametrize(
    ("name", "gmacs", "without", "params"),
    [
        ("vit_small_patch16_224", 4.599, 4.241, 22.05),
        ("vit_base_patch16_224", 17.564, 16.849, 86.57),
    ],
)
def test_base_models_have_their_known_cost(
    name: str, gmacs: float, without: float, params: float
) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    cost = ltm.count(model)
    assert cost.gmacs == pytest.approx(gmacs, rel=1e-3)
    assert cost.gmacs_no_attention_matmul == pytest.approx(without, rel=1e-3)
    assert cost.params_m == pytest.approx(params, rel=1e-3)


def test_counting_leaves_no_trace() -> None:
    model = ltm.create_model("vit_nano_patch4_32", compression_ratio=0.5).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first, second = ltm.count(model), ltm.count(model, 32)
    assert first == second
    assert all(module.training for module in model.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert timm.layers.use_fused_attn()


def test_blocks_add_up_and_merging_pays() -> None:
    base = ltm.count(ltm.create_model("vit_micro_patch4_32", "none"))
    merged = ltm.count(ltm.create_model("vit_micro_patch4_32", compression_ratio=0.5))
    for i in range(1, 4):
        assert merged.blocks[f"blocks.{i}"].gmacs < 0.55 * base.blocks[f"blocks.{i}"].gmacs
    # the method runs inside of its block, and counts there
    parts = [c.gmacs for name, c in merged.blocks.items() if "." not in name and name != "method"]
    assert sum(parts) == pytest.approx(merged.gmacs, rel=1e-4)
    assert merged.gmacs < base.gmacs


def test_mask_and_merge_are_cheap_and_small() -> None:
    model = ltm.create_model("vit_small_patch16_224", compression_ratio=0.5)
    base = ltm.count(ltm.create_model("vit_small_patch16_224", "none"))
    cost = ltm.count(model)
    merge = 196 * 384 / 1e9
    assert cost.blocks["method"].gmacs + merge < 0.02 * base.blocks["blocks.0"].gmacs
    assert cost.blocks["method"].params_m < 0.05


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("vit_nano_patch4_32", 32),
        ("swin_nano_patch2_window4_32", 32),
        ("mobilevit_xxs", 64),
        ("efficientvit_b0", 64),
    ],
)
def test_an_independent_counter_agrees(name: str, size: int) -> None:
    from deepspeed.profiling.flops_profiler import get_model_profile

    model = ltm.create_model(name, "none", image_size=size)
    _, macs, params = get_model_profile(
        model, input_shape=(1, 3, size, size), as_string=False, print_profile=False
    )
    cost = ltm.count(model)
    assert cost.gmacs == pytest.approx(macs / 1e9, rel=0.01)
    assert cost.params_m == pytest.approx(params / 1e6, rel=1e-6)
