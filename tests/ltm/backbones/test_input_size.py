"""`set_input_size` works, or it says in one sentence why not and leaves the network as it was."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch

import ltm
from ltm.errors import FieldError

from ..networks import SIZES
from .conftest import create, images

VIT, SWIN, MOBILE = "vit_nano_patch4_32", "swin_nano_patch2_window4_32", "mobilevit_xxs"


@pytest.mark.parametrize(
    ("backbone", "options"),
    [(VIT, {}), (SWIN, {}), (SWIN, {"window_size": 8})],
)
def test_at_ratio_1_the_result_is_timms(backbone: str, options: dict[str, Any]) -> None:
    model = create(backbone, compression_ratio=1)
    base: Any = timm.create_model(backbone, num_classes=5, img_size=SIZES[backbone])
    base.load_state_dict(model.state_dict(), strict=False)
    size = (2 * SIZES[backbone], SIZES[backbone])
    # timm's own windows would grow with the image
    keep = {"window_size": 4} if backbone == SWIN else {}
    base.set_input_size(size, **keep | options)
    model.set_input_size(size, **options)
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        torch.testing.assert_close(model(x), base.eval()(x))


def test_patches_may_change_with_the_size_or_alone() -> None:
    model: Any = ltm.create_model(
        "vit_tiny_patch16_224", compression_ratio=0.5, image_size=64, num_classes=5
    )
    model.set_input_size(patch_size=8)
    assert model.sites["blocks.0"].tokens == 64
    assert model(images(64)).shape == (2, 5)
    model.set_input_size(32, patch_size=4)
    assert model.sites["blocks.0"].tokens == 64
    assert model(images(32)).shape == (2, 5)


@pytest.mark.parametrize(
    ("backbone", "options", "size", "more", "says"),
    [
        (VIT, {"plan": {"blocks.0": 40}}, 16, {}, "keeps 40 tokens at blocks.0, allowed is"),
        (VIT, {"plan": {"blocks.0": 40}}, 34, {}, "multiples of the 4 x 4 pixels"),
        (VIT, {"compression_ratio": 0.5}, 64, {"window_size": 4}, "window_size"),
        (SWIN, {"plan": {"layers.1": (3, 3)}}, 40, {}, "multiples of"),
        (SWIN, {"plan": {"layers.2": (3, 3)}}, 64, {"window_size": 2}, "keeps .* at layers.2"),
        (SWIN, {"compression_ratio": 0.5}, 64, {"window_size": (4, 4, 4)}, "Expected 4 stage"),
        (MOBILE, {"plan": {"stages.2.1": (4, 4)}}, 32, {}, "keeps .* at stages.2.1"),
        (MOBILE, {"compression_ratio": 0.5}, 16, {}, "32 x 32 or more"),
        (MOBILE, {"compression_ratio": 0.5}, 96, {"patch_size": 4}, "takes a size alone"),
        ("efficientvit_b0", {"plan": {"stages.2": (4, 4)}}, 32, {}, "keeps .* at stages.2"),
    ],
)
def test_a_size_that_does_not_go_changes_nothing(
    backbone: str,
    options: dict[str, Any],
    size: int,
    more: dict[str, Any],
    says: str,
) -> None:
    model = create(backbone, **options)
    side = SIZES[backbone]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    parameters, sites = list(model.parameters()), dict(model.sites)
    with torch.no_grad():
        before = model(images(side))
    with pytest.raises(FieldError, match=says) as caught:
        model.set_input_size(size, **more)
    said = str(caught.value)
    assert said.startswith(f"image_size cannot become {size} x {size} and stays {side} x {side}: ")
    assert "\n" not in said
    assert (model.image_size, model.sites) == ((side, side), sites)
    assert all(one is other for one, other in zip(model.parameters(), parameters, strict=True))
    after = model.state_dict()
    assert after.keys() == state.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in state.items())
    with torch.no_grad():
        assert torch.equal(model(images(side)), before)
    model.set_input_size(2 * side)
    assert model.image_size == (2 * side, 2 * side)
