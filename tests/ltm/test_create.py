"""What `create_model` refuses, and what it says then."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from timm.models import swin_transformer, vision_transformer

import ltm

TINY = "vit_nano_patch4_32"


@pytest.mark.parametrize(
    ("backbone", "options", "says"),
    [
        ("vit_smal_patch16_224", {}, "vit_small_patch16_224"),
        ("resnet50", {}, "allowed are the families EfficientViT, MobileViT, Swin and plain ViT"),
        (TINY, {"method": "ltn"}, "did you mean 'ltm'"),
        (TINY, {"ranks": 8}, "did you mean 'rank'"),
        (TINY, {"compression_ratio": 0}, r"\(0, 1\]"),
        (TINY, {"compression_ratio": 1.5}, r"\(0, 1\]"),
        (TINY, {"compression_ratio": -1}, r"\(0, 1\]"),
        (TINY, {"compression_ratio": float("nan")}, r"\(0, 1\]"),
        (TINY, {"compression_ratio": True}, r"\(0, 1\]"),
        (TINY, {"plan": {"blocks.0": 65}}, "from 1 to 64"),
        (TINY, {"plan": {"blocks.0": 30.0}}, "from 1 to 64"),
        (TINY, {"plan": {"blocks.0": None}}, "from 1 to 64"),
        (TINY, {"rank": 0}, "option 'rank' is 0"),
        (TINY, {"plan": {"blocks.0": 30, "blocks.1": 31}}, "from 1 to 30"),
        (TINY, {"plan": {"blocks.0": 30, "blocks.1": (5, 5)}}, "keeps no grid"),
        (TINY, {"plan": {"blocks.0": (9, 8)}}, "1 x 1 to 8 x 8"),
        (TINY, {"plan": {"blocks.9": 30}}, "blocks.0 to blocks.3"),
        (TINY, {"plan": {"blocks.0": 30}, "compression_ratio": 0.5}, "one of them"),
        (TINY, {"image_size": 30}, "multiples"),
        (TINY, {"drop_path": 1.0}, r"\[0, 1\)"),
        (TINY, {"method": "none", "compression_ratio": 0.5}, "merges nothing"),
        (TINY, {"checkpoint": "nowhere.pt"}, "nowhere.pt"),
    ],
)
def test_what_is_not_possible_is_named(backbone: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ltm.create_model(backbone, **options)


def test_names() -> None:
    assert {"none", "ltm"} <= set(ltm.list_methods())
    assert {"vit_s", "vit_base_patch16_224", "deit_small_patch16_224", TINY} <= set(
        ltm.list_backbones()
    )


@pytest.mark.parametrize(
    ("backbone", "size", "timms"),
    [
        (TINY, 48, vision_transformer),
        ("vit_tiny_patch16_224", 256, vision_transformer),
        ("swin_nano_patch2_window4_32", 64, swin_transformer),
    ],
)
def test_weights_of_another_image_size_are_taken_as_timm_takes_them(
    backbone: str, size: int, timms: ModuleType, tmp_path: Path
) -> None:
    old = ltm.create_model(backbone, num_classes=5)
    for parameter in old.parameters():
        torch.nn.init.normal_(parameter)
    torch.save(old.state_dict(), tmp_path / "old.pt")
    new = ltm.create_model(
        backbone, num_classes=5, image_size=size, checkpoint=tmp_path / "old.pt"
    ).state_dict()
    expected = timms.checkpoint_filter_fn(
        old.state_dict(), ltm.create_model(backbone, "none", num_classes=5, image_size=size)
    )
    assert any(old.state_dict()[key].shape != tensor.shape for key, tensor in new.items())
    for key, tensor in new.items():
        torch.testing.assert_close(tensor, expected[key], msg=key)


def test_checkpoints_load_and_misfits_are_named(tmp_path: Path) -> None:
    base = ltm.create_model(TINY, "none", num_classes=5)
    torch.save(base.state_dict(), tmp_path / "base.pt")
    model = ltm.create_model(TINY, num_classes=5, checkpoint=tmp_path / "base.pt")
    assert torch.equal(model.state_dict()["head.weight"], base.state_dict()["head.weight"])

    with pytest.raises(ValueError, match=r"misshapes head\.weight"):
        ltm.create_model(TINY, num_classes=6, checkpoint=tmp_path / "base.pt")
    state = base.state_dict()
    state["nose.weight"] = state.pop("norm.weight", torch.ones(1))
    torch.save(state, tmp_path / "odd.pt")
    with pytest.raises(ValueError, match=r"nose\.weight|norm\.weight"):
        ltm.create_model(TINY, num_classes=5, checkpoint=tmp_path / "odd.pt")
