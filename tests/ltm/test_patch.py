"""A model that exists gets a method, in place; and what `ltm.merges` says of it afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import nn

import ltm
from ltm.backbones.vit import MergingViT

from .networks import SIZES


def trained(name: str, **options: Any) -> tuple[Any, torch.Tensor]:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, **options)
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return model.eval(), torch.randn(2, 3, SIZES[name], SIZES[name])


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", SIZES)
def test_at_ratio_1_the_same_object_computes_the_same_to_the_bit(name: str, fused: bool) -> None:
    model, x = trained(name)
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused
    modules, keys = [*model.modules()], [*model.state_dict()]
    called: list[Any] = []
    model.register_forward_hook(lambda *_: called.append(1))
    with torch.no_grad():
        before = model(x)
        patched = ltm.patch(model, "tome", compression_ratio=1, image_size=SIZES[name])
        assert patched is model
        assert torch.equal(model(x), before)
        assert model.plan == {}
        assert ltm.merges(model, x) == []
        model.set_compression(0.5)
        assert model.plan
        assert not torch.equal(model(x), before)
    assert [module for module in model.modules() if module is not model.method] == modules
    assert [*model.state_dict()] == keys
    assert len(called) == 4
    assert not any(module.training for module in model.modules())


def test_precision_and_mode_are_those_of_the_model() -> None:
    model, x = trained("vit_nano_patch4_32")
    ltm.patch(model.double().train(), "ltm", compression_ratio=0.5)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    assert model.method.training
    assert model(x.double()).dtype == torch.float64


def test_another_method_takes_the_place_of_the_first() -> None:
    model, _ = trained("vit_nano_patch4_32")
    ltm.patch(model, "ltm", compression_ratio=0.5)
    ltm.patch(model, "tome", r=8)
    assert model.method.name == "tome"
    assert not any(name.startswith("method.") for name in model.state_dict())
    assert list(model.plan.values()) == [56, 48, 40, 32]
    with pytest.raises(ltm.FieldError, match="tokens merge already"):
        ltm.patch(model, "s2vite")


def test_heads_and_units_can_leave_too() -> None:
    model, x = trained("vit_nano_patch4_32")
    with torch.no_grad():
        before = model(x)
        ltm.patch(model, "s2vite", compression_ratio=1)
        torch.testing.assert_close(model(x), before)
    whole = ltm.count(model).gmacs
    model.set_compression(gmacs=0.7 * whole)
    assert ltm.count(ltm.compacted(model)).gmacs <= 0.7 * whole


def test_a_network_that_timm_did_not_create_by_name_is_taken() -> None:
    options: dict[str, Any] = {"img_size": 16, "patch_size": 4, "in_chans": 1}
    options |= {"embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 3}
    model = timm.models.vision_transformer.VisionTransformer(**options)
    ltm.patch(model, "tome", plan={"blocks.1": 9})
    assert model(torch.randn(2, 1, 16, 16)).shape == (2, 3)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"method": "tme"}, "method"),
        ({"method": "none"}, "method"),
        ({"compression_ratio": 2}, "compression_ratio"),
        ({"plan": {"blocks.9": 4}}, "plan"),
        ({"target_gmacs": 1e-9}, "target_gmacs"),
        ({"image_size": 30}, "image_size"),
        ({"ranks": 4}, "options.ranks"),
    ],
)
def test_a_mistake_leaves_the_model_as_it_was(options: dict[str, Any], field: str) -> None:
    model, x = trained("vit_nano_patch4_32")
    kinds = [type(module) for module in model.modules()]
    with torch.no_grad():
        before = model(x)
        with pytest.raises(ltm.FieldError) as caught:
            ltm.patch(model, **options)
        assert caught.value.field == field
        assert [type(module) for module in model.modules()] == kinds
        assert torch.equal(model(x), before)


@pytest.mark.parametrize(
    "model",
    [
        nn.Linear(2, 2),
        nn.Module(),
        timm.create_model("resnet18"),
        nn.DataParallel(timm.create_model("vit_nano_patch4_32")),
        "vit_s",
    ],
    ids=["linear", "module", "resnet", "wrapped", "name"],
)
def test_what_is_no_network_of_a_family_is_refused(model: Any) -> None:
    with pytest.raises(ltm.FieldError, match="timm's"):
        ltm.patch(model, "tome")


def test_a_budget_is_set_afterwards_and_a_wrong_one_changes_nothing() -> None:
    model, _ = trained("vit_nano_patch4_32")
    ltm.patch(model, "tome", compression_ratio=0.6)
    plan = model.plan
    for wrong in (1e-6, "abc", float("nan"), True):
        with pytest.raises(ltm.FieldError, match="gmacs is"):
            model.set_compression(gmacs=wrong)
    with pytest.raises(ltm.FieldError, match="one of them"):
        model.set_compression(0.5, gmacs=0.01)
    assert model.plan == plan
    model.set_compression(gmacs=0.01)
    assert ltm.count(model).gmacs <= 0.01 < 1.05 * ltm.count(model).gmacs


@pytest.mark.parametrize("name", SIZES)
def test_merges_say_what_every_slot_is_made_of(name: str) -> None:
    """Tokens of the image followed through all merges by hand, by what the method is shown."""
    model, x = trained(name)
    ltm.patch(model, "tome", compression_ratio=0.5, image_size=SIZES[name])
    found = ltm.merges(model, x)
    assert [one.site.name for one in found] == list(model.sites)
    for one in found:
        rows, columns = one.patches
        down, across = one.site.tiles
        over = one.over_patches
        assert over is not None
        assert over.shape == (2, rows * columns, one.site.slots * down * across)
        torch.testing.assert_close(over.sum(1), torch.ones_like(over[:, 0]))
    if isinstance(model, MergingViT):  # the rest of a slot's patches are in no other slot
        assert ((found[-1].over_patches > 0).sum(2) == 1).all()


def test_merges_are_of_the_whole_image_where_windows_merge() -> None:
    model, x = trained("swin_nano_patch2_window4_32")
    ltm.patch(model, "tome", plan={"layers.1": (2, 3)})
    seen: list[torch.Tensor] = []
    model.method.register_forward_hook(
        lambda _m, args, merge: seen.extend([args[0].tokens, merge(args[0].tokens)])
    )
    (found,) = ltm.merges(model, x)
    tokens, slots = seen  # [2 x 4 windows, ...] of an 8 x 8 map
    whole = tokens.view(2, 2, 2, 4, 4, -1).transpose(2, 3).reshape(2, 64, -1)
    expected = slots.view(2, 2, 2, 2, 3, -1).transpose(2, 3).reshape(2, 24, -1)
    assert found.over_patches is not None
    torch.testing.assert_close(found.over_patches.transpose(1, 2) @ whole, expected)


def test_merges_of_a_model_without_a_method_are_refused() -> None:
    model, x = trained("vit_nano_patch4_32")
    with pytest.raises(ltm.FieldError, match="tokens do not merge"):
        ltm.merges(model, x)
