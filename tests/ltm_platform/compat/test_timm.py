from __future__ import annotations

import random
from itertools import chain

import numpy as np
import pytest
from PIL import Image
from timm.data import auto_augment, create_transform

from ltm_platform.compat.timm import allow_posterize_to_black, replace_operations

POLICIES = ["rand-m10-n9", "augmix-m5-w2", "original", "v0"]


def posterising(transform: object) -> list[auto_augment.AugmentOp]:
    """The operations of a transform that take bits away."""
    listed = [*getattr(transform, "ops", []), *chain(*getattr(transform, "policy", []))]
    return [one for one in listed if one.name.startswith("Posterize")]


@pytest.mark.parametrize("policy", POLICIES)
def test_no_bits_are_black_in_every_kind_of_policy(policy: str) -> None:
    _, colours, _ = create_transform(
        (3, 32, 32), is_training=True, auto_augment=policy, separate=True
    )
    (step,) = colours.transforms
    found = posterising(step)
    assert found, "else there is nothing to allow"
    assert all(one.aug_fn is auto_augment.posterize for one in found)
    allow_posterize_to_black(step)
    image = Image.fromarray(np.full((4, 4, 3), 200, np.uint8))
    for one in found:
        assert not np.array(one.aug_fn(image, 0)).any()
        assert one.aug_fn(image, 3) == auto_augment.posterize(image, 3)


@pytest.mark.parametrize("policy", POLICIES)
def test_what_a_policy_does_can_be_exchanged(policy: str) -> None:
    _, colours, _ = create_transform(
        (3, 32, 32), is_training=True, auto_augment=policy, separate=True
    )
    (step,) = colours.transforms
    replace_operations(step, {"rotate": "ours"}, lambda function: f"timm's {function.__name__}")
    found = {
        one.aug_fn for one in (*getattr(step, "ops", []), *chain(*getattr(step, "policy", [])))
    }
    assert "ours" in found
    assert "timm's equalize" in found
    assert "timm's rotate" not in found


def test_transforms_come_in_the_order_that_ours_replaces() -> None:
    """The three parts that ``data.transforms`` takes the crop and the last two steps out of."""
    parts = create_transform(
        (3, 32, 32), is_training=True, hflip=0.5, color_jitter=0.4, re_prob=0.2, separate=True
    )
    first, _, last = ([type(one).__name__ for one in part.transforms] for part in parts)
    assert first == ["RandomResizedCropAndInterpolation", "RandomHorizontalFlip"]
    assert last == ["MaybeToTensor", "Normalize", "RandomErasing"]
    crop = parts[0].transforms[0]
    random.seed(0)
    image = Image.new("RGB", (40, 30))
    top, left, height, width = crop.get_params(image, crop.scale, crop.ratio)
    assert 0 <= top <= top + height <= 30
    assert 0 <= left <= left + width <= 40
    assert tuple(crop.size) == (32, 32)
    whole = create_transform((3, 32, 32), is_training=False)
    names = [type(one).__name__ for one in whole.transforms]
    assert names == ["Resize", "CenterCrop", "MaybeToTensor", "Normalize"]
