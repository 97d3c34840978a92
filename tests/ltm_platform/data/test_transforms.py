from __future__ import annotations

import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import to_tensor

from ltm_platform.data.transforms import Augment, eval_transform, train_transform

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def gradient(width: int, height: int) -> Image.Image:
    across = Image.linear_gradient("L").rotate(90).resize((width, height))
    return Image.merge("RGB", (across, across, across))


def normalised(image: torch.Tensor) -> torch.Tensor:
    return (image - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def test_small_images_are_evaluated_whole() -> None:
    image = gradient(32, 32)
    assert torch.allclose(eval_transform(32, MEAN, STD)(image), normalised(to_tensor(image)))


def test_large_images_are_evaluated_by_their_centre() -> None:
    image = gradient(256, 256)  # resized to 256 = 224 / 0.875: unchanged
    centre = to_tensor(image)[:, 16:240, 16:240]
    assert torch.allclose(eval_transform(224, MEAN, STD)(image), normalised(centre))


def test_without_augmentation_training_sees_the_resized_image() -> None:
    plain = Augment(crop_scale=(1.0, 1.0), hflip=0.0)
    image = gradient(32, 32)
    assert torch.allclose(
        train_transform(plain, 32, MEAN, STD)(image), normalised(to_tensor(image))
    )


@pytest.mark.parametrize(
    "augment",
    [
        Augment(hflip=1.0, crop_scale=(1.0, 1.0)),
        Augment(hflip=0.0, crop_scale=(0.2, 0.3)),
        Augment(hflip=0.0, crop_scale=(1.0, 1.0), color_jitter=0.9),
        Augment(hflip=0.0, crop_scale=(1.0, 1.0), auto_augment="rand-m9-n4-p1.0"),
        Augment(hflip=0.0, crop_scale=(1.0, 1.0), random_erasing=1.0),
    ],
)
def test_every_field_of_augment_takes_effect(augment: Augment) -> None:
    plain = Augment(crop_scale=(1.0, 1.0), hflip=0.0)
    image = gradient(32, 32)
    changed = train_transform(augment, 32, MEAN, STD)(image)
    assert changed.shape == (3, 32, 32)
    assert not torch.allclose(changed, train_transform(plain, 32, MEAN, STD)(image), atol=0.05)
