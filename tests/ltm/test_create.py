"""What `create_model` refuses, and what it says then."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.models import swin_transformer, vision_transformer

import ltm

TINY = "vit_nano_patch4_32"


@pytest.mark.parametrize(
    ("backbone", "options", "says"),
    [
        ("vit_smal_patch16_224", {}, "vit_small_patch16_224"),
        (
            "resnet50",
            {},
            "allowed are the families EfficientViT, MobileViT, Swin, Swin V2, plain ViT .*DINOv3",
        ),
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
        (TINY, {"checkpoint": 5}, "checkpoint is '5', which is not a file"),
        (TINY, {"target_gmacs": "abc"}, "target_gmacs is 'abc', allowed is a number above 0"),
        (TINY, {"target_gmacs": True}, "target_gmacs is True"),
        (TINY, {"target_gmacs": "abc", "method": "s2vite"}, "target_gmacs is 'abc'"),
        (TINY, {"image_size": (32,)}, r"image_size is \(32,\), allowed is a whole number"),
        (TINY, {"image_size": "32"}, "image_size is '32'"),
        (TINY, {"image_size": True}, "image_size is True"),
        (TINY, {"plan": "abc"}, "plan is 'abc', allowed is a mapping such as"),
        (TINY, {"plan": {0: 30}}, "plan is"),
        (TINY, {"plan": {"blocks.0": True}}, "keeps True tokens"),
        (TINY, {"plan": {"blocks.0": "abc"}}, "keeps 'abc' tokens"),
        (TINY, {"plan": {"blocks.0": 30}, "method": "spvit"}, "no selector"),
        (TINY, {"rank": True}, "option 'rank' is True"),
        (TINY, {"num_classes": "ten"}, "num_classes is 'ten'"),
        (TINY, {"num_classes": -1}, "num_classes is -1"),
        (TINY, {"drop_path": "abc"}, "drop_path is 'abc'"),
        (TINY, {"drop_rate": 2}, "drop_rate is 2"),
        (TINY, {"in_chans": 0}, "in_chans is 0"),
        (TINY, {"global_pool": "abc"}, "global_pool is 'abc', which timm's vit_nano"),
        ("efficientvit_b0", {"class_token": True}, "class_token is True, which timm's efficientv"),
        (TINY, {"img_size": 32}, "timm's name of what is image_size here"),
        (TINY, {"dynamic_img_size": True}, "dynamic_img_size is true"),
        (TINY, {"out_indices": 2}, "out_indices is 2, allowed is none without"),
        (TINY, {"features_only": True, "out_indices": (9,)}, "out_indices is"),
    ],
)
def test_what_is_not_possible_is_named(backbone: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ltm.FieldError, match=says) as caught:
        ltm.create_model(backbone, **options)
    assert "\n" not in str(caught.value)


def test_what_timms_network_takes_is_taken() -> None:
    options: dict[str, Any] = {"num_classes": 5, "compression_ratio": 0.5}
    given: dict[str, Any] = {"in_chans": 1, "global_pool": "token", "class_token": True}
    for method in ("tome", "savit", "s2vite"):
        options["compression_ratio"] = 0.7
        model = ltm.create_model(TINY, method, drop_rate=0.25, **given, **options)
        assert model(torch.randn(2, 1, 32, 32)).shape == (2, 5)
        assert (model.has_class_token, model.head_drop.p) == (True, 0.25)
    base = ltm.create_model(TINY, "none", **given)
    assert type(base) is vision_transformer.VisionTransformer
    for method in ("none", "tome"):
        net = ltm.create_model(TINY, method, features_only=True, out_indices=(0, 3))
        maps = net(torch.randn(2, 3, 32, 32))
        assert [tuple(x.shape) for x in maps] == [(2, 64, 8, 8)] * 2
        assert ltm.count(net).gmacs > 0


def test_numbers_may_be_numpys() -> None:
    model = ltm.create_model(
        TINY,
        rank=np.int64(8),
        compression_ratio=np.float32(0.5),
        num_classes=np.int32(5),
        image_size=(np.int64(32), np.int64(32)),
        drop_path=np.float64(0.0),
    )
    assert model.plan == {"blocks.0": 32}
    model.set_compression({"blocks.0": np.int64(40), "blocks.1": np.uint8(20)})
    assert [type(kept) for kept in model.plan.values()] == [int, int]
    model.set_compression(gmacs=np.float32(0.01))
    model.set_input_size(np.int64(48))
    tome = ltm.create_model(TINY, "tome", r=np.int64(4))
    assert tome.plan["blocks.3"] == 48


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 1, 32, 32), (2, 3, 32), (2, 3, 32, 31)])
def test_what_is_no_batch_of_images_is_named(shape: tuple[int, ...]) -> None:
    model = ltm.create_model(TINY, "tome")
    with pytest.raises(ltm.FieldError, match=r"^images are"):
        model(torch.zeros(shape))


def test_checkpoints_that_do_not_quite_fit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = ltm.create_model(TINY, "none", num_classes=5)
    file = tmp_path / "weights.pt"
    teacher = {f"teacher.{key}": x for key, x in base.state_dict().items() if "head" not in key}
    torch.save({**teacher, "student.pos_embed": torch.zeros(1)}, file)
    given: dict[str, Any] = {"checkpoint": file, "checkpoint_prefix": "teacher."}
    with pytest.raises(ltm.FieldError, match=r"lacks head\.weight, head\.bias"):
        ltm.create_model(TINY, num_classes=7, **given)
    for lenient in ({"new_classifier": True}, {"strict": False}):
        model = ltm.create_model(TINY, num_classes=7, **given, **lenient)
        assert torch.equal(model.pos_embed, base.pos_embed)
    assert "lacks head.weight, head.bias" in caplog.text
    with pytest.raises(ltm.FieldError, match="with which no key of"):
        ltm.create_model(TINY, checkpoint=file, checkpoint_prefix="backbone.")
    with pytest.raises(ltm.FieldError, match="lacks"):  # nothing fits
        ltm.create_model(TINY, checkpoint=file, strict=False)


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
    for name in ("damaged.pt", "damaged.safetensors"):
        (tmp_path / name).write_bytes(b"no weights")
        with pytest.raises(ltm.FieldError, match=r"cannot be read as weights: .+"):
            ltm.create_model(TINY, checkpoint=tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ltm.FieldError, match=r"list\.pt"):
        ltm.create_model(TINY, checkpoint=tmp_path / "list.pt")
    state = base.state_dict()
    state["nose.weight"] = state.pop("norm.weight", torch.ones(1))
    torch.save(state, tmp_path / "odd.pt")
    with pytest.raises(ValueError, match=r"nose\.weight|norm\.weight"):
        ltm.create_model(TINY, num_classes=5, checkpoint=tmp_path / "odd.pt")


def test_a_folder_of_timm_or_hugging_face_loads_where_it_is_of_the_network(tmp_path: Path) -> None:
    base = ltm.create_model(TINY, "none", num_classes=5)
    for safe, name in ((True, "safe"), (False, "pickled")):
        folder = tmp_path / name
        timm.models.save_for_hf(base, str(folder), safe_serialization=safe)
        assert (folder / "model.safetensors").exists() == safe
        model = ltm.create_model(TINY, "ltm", num_classes=5, checkpoint=folder)
        assert torch.equal(model.head.weight, base.head.weight)
    other = ltm.create_model("vit_micro_patch4_32", "none", num_classes=5)
    timm.models.save_for_hf(other, str(tmp_path / "other"), safe_serialization=True)
    says = r"weights of 'vit_micro_patch4_32', but the network is vit_nano_patch4_32"
    with pytest.raises(ltm.FieldError, match=says):
        ltm.create_model(TINY, num_classes=5, checkpoint=tmp_path / "other")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ltm.FieldError, match=r"without model\.safetensors and pytorch_model\.bin"):
        ltm.create_model(TINY, checkpoint=tmp_path / "empty")
    (tmp_path / "safe/config.json").write_text("[]")
    with pytest.raises(ltm.FieldError, match=r"config\.json cannot be read"):
        ltm.create_model(TINY, num_classes=5, checkpoint=tmp_path / "safe")
