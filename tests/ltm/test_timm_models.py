"""Networks of ours in timm's registry."""

import timm
import torch

import ltm.timm_models  # noqa: F401
from ltm.methods import Method


def test_timms_registry_has_the_published_networks() -> None:
    model = timm.create_model("ltm_mobilevit_xs", num_classes=5, img_size=64)
    assert isinstance(model.method, Method)
    images = torch.randn(2, 3, 64, 64)
    assert model(images).shape == (2, 5)
    features = timm.create_model(
        "ltm_efficientvit_b1", features_only=True, img_size=64, compression_ratio=0.5
    )
    assert [f.shape[-1] for f in features(images)] == [16, 8, 4, 2]
