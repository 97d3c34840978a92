"""Backbones by name, and what they refuse."""

from typing import Any

import pytest
import torch

import ltm
from ltm.backbones import find_backbone, own_size
from ltm.flops import image_size_of


def test_names_of_the_paper_and_short_ones() -> None:
    for name, timm_name in {
        "ltm_mobilevit_s": "mobilevit_s",
        "vit_s": "vit_small_patch16_224",
        "swin_t": "swin_tiny_patch4_window7_224",
        "ltm_swin_tiny": "swin_tiny_patch4_window7_224",
    }.items():
        assert find_backbone(name)[0] == timm_name


def test_only_what_can_merge_is_listed() -> None:
    names = set(ltm.list_backbones())
    assert {"deit_small_patch16_224", "vit_little_patch16_reg4_gap_256"} <= names
    assert not names & {"efficientvit_l1", "beit_base_patch16_224"}
    assert not names & {"vit_base_patch16_xp_224", "vit_dwee_patch16_reg1_gap_256", "resnet50"}


@pytest.mark.parametrize(
    ("backbone", "options", "says"),
    [
        ("swin_t", {"image_size": 256}, "multiples of 112"),
        ("swin_t", {"plan": {"layers.2": (8, 8)}}, "1 x 1 to 7 x 7"),
        ("swin_t", {"plan": {"stages.2": (6, 6)}}, "layers.2"),
        ("mobilevit_s", {"plan": {"stages.2.1": 30}}, "14 x 14"),
        ("mobilevit_s", {"image_size": 16}, "32 x 32 or more"),
        ("efficientvit_l1", {}, "efficientvit_b0"),
        ("efficientvit_b1", {"drop_path": 0.1}, "only 0"),
        (
            "vit_nano_patch4_32.foo",
            {},
            "timm has no weights 'foo' of it, allowed is vit_nano_patch4",
        ),
        ("vit_base_patch16_224.foo", {}, "'foo' of it, allowed is .*augreg2_in21k_ft_in1k"),
        ("vit_nano_patch4_32.", {}, "timm has no weights ''"),
        ("vit_base_patch16_xp_224", {}, "plain Block"),
        ("vit_nano_patch4_32", {"method": "tome", "compression_ratio": 0.3}, "0.375 to 1"),
        ("vit_nano_patch4_32", {"target_gmacs": 1e-4}, "or more"),
        ("vit_nano_patch4_32", {"target_gmacs": 0.01, "compression_ratio": 0.5}, "one of them"),
    ],
)
def test_what_is_not_possible_is_named(backbone: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ltm.create_model(backbone, **options)


@pytest.mark.parametrize(
    ("backbone", "size"),
    [
        ("vit_base_patch16_224", 224),
        ("vit_base_patch16_224.augreg_in21k", 224),
        ("vit_s", 224),
        ("vit_nano_patch4_32", 32),
        ("ltm_swin_base_patch4_window7_224", 224),
        ("efficientvit_b1.r288_in1k", 288),
        ("mobilevit_s", 224),
    ],
)
def test_the_size_that_a_backbone_is_built_for(backbone: str, size: int) -> None:
    assert own_size(backbone) == size
    with torch.device("meta"):
        assert image_size_of(ltm.create_model(backbone, method="none")) == (size, size)
