from __future__ import annotations

import random
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.data import create_transform
from torchvision.transforms.functional import to_tensor

from ltm_platform.data.pixels.on_device import ToNetwork
from ltm_platform.data.transforms import Augmentation, Transform, eval_transform, train_stages

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def train_transform(
    augment: Augmentation,
    size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    resize: Literal["torch", "pillow"] = "torch",
) -> Transform:
    """All steps of the way of an image to the network, where training divides them."""
    pixels, erase = train_stages(augment, size, mean, resize=resize)
    to_network = ToNetwork(mean, std)

    def transform(image: Image.Image) -> torch.Tensor:
        values = to_network(pixels(image)[None])[0]
        return values if erase is None else erase(values)

    return transform


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
    plain = Augmentation(crop_scale=(1.0, 1.0), hflip=0.0)
    image = gradient(32, 32)
    assert torch.allclose(
        train_transform(plain, 32, MEAN, STD)(image), normalised(to_tensor(image))
    )


@pytest.mark.parametrize(
    "augment",
    [
        Augmentation(hflip=1.0, crop_scale=(1.0, 1.0)),
        Augmentation(hflip=0.0, crop_scale=(0.2, 0.3)),
        Augmentation(hflip=0.0, crop_scale=(1.0, 1.0), color_jitter=0.9),
        Augmentation(hflip=0.0, crop_scale=(1.0, 1.0), auto_augment="rand-m9-n4-p1.0"),
        Augmentation(hflip=0.0, crop_scale=(1.0, 1.0), random_erasing=1.0),
    ],
)
def test_every_field_of_augment_takes_effect(augment: Augmentation) -> None:
    plain = Augmentation(crop_scale=(1.0, 1.0), hflip=0.0)
    image = gradient(32, 32)
    changed = train_transform(augment, 32, MEAN, STD)(image)
    assert changed.shape == (3, 32, 32)
    assert not torch.allclose(changed, train_transform(plain, 32, MEAN, STD)(image), atol=0.05)


def photographs() -> list[Image.Image]:
    return [Image.fromarray(pixels) for pixels in load_sample_images().images]


def seed(value: int) -> None:
    random.seed(value)
    np.random.seed(value)  # noqa: NPY002
    torch.manual_seed(value)


def timms_own(augment: Augmentation, size: int = 96) -> Transform:
    return create_transform(
        (3, size, size),
        is_training=True,
        scale=augment.crop_scale,
        hflip=augment.hflip,
        color_jitter=augment.color_jitter or None,
        auto_augment=augment.auto_augment,
        re_prob=augment.random_erasing,
        re_mode="pixel",
        interpolation="bicubic",
        mean=MEAN,
        std=STD,
    )


@pytest.mark.parametrize(
    "augment", [Augmentation(), Augmentation(auto_augment="rand-m5-n2-inc1", random_erasing=0.5)]
)
def test_resized_by_pillow_training_images_are_timms_bit_for_bit(augment: Augmentation) -> None:
    ours = train_transform(augment, 96, MEAN, STD, resize="pillow")
    theirs = timms_own(augment)
    for number in range(10):
        for image in photographs():
            seed(number)
            expected = theirs(image)
            seed(number)
            assert torch.equal(ours(image), expected)


def levels(image: torch.Tensor) -> torch.Tensor:
    """Undo the normalisation: 0 to 255."""
    std, mean = (torch.tensor(v)[:, None, None] for v in (STD, MEAN))
    return (image * std + mean) * 255


def test_resized_by_torch_the_same_crops_differ_by_rounding_alone() -> None:
    for jitter in (0.0, 0.4):
        augment = Augmentation(color_jitter=jitter)
        ours, theirs = train_transform(augment, 96, MEAN, STD), timms_own(augment)
        differences = []
        for number in range(10):
            for image in photographs():
                seed(number)
                expected = theirs(image)
                seed(number)
                differences.append((levels(ours(image)) - levels(expected)).abs().round())
                # Both drew the same numbers, so what follows is augmented alike.
                after = (random.random(), float(torch.rand(())))
                seed(number)
                theirs(image)
                assert after == (random.random(), float(torch.rand(())))
        difference = torch.stack(differences)
        assert (difference > 1).float().mean() < 0.001
        assert difference.mean() < 0.05
        assert difference.max() <= 16


def test_resized_by_torch_evaluation_differs_by_rounding_alone() -> None:
    for image in photographs():
        ours = eval_transform(224, MEAN, STD)(image)
        pillows = eval_transform(224, MEAN, STD, resize="pillow")(image)
        difference = (levels(ours) - levels(pillows)).abs().round()
        assert (difference > 1).float().mean() < 0.001
        assert difference.mean() < 0.05


def test_torch_is_as_near_to_exact_bicubic_as_pillow() -> None:
    augment = Augmentation(crop_scale=(1.0, 1.0), hflip=0.0)
    errors = {"torch": 0.0, "pillow": 0.0}
    for image in photographs():
        image = image.crop((0, 0, 400, 400))
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].double()
        exact = torch.nn.functional.interpolate(
            pixels, size=(224, 224), mode="bicubic", antialias=True
        )
        for backend in errors:
            resized = train_transform(augment, 224, MEAN, STD, resize=backend)(image)
            errors[backend] += float((levels(resized) - exact[0].clamp(0, 255)).abs().mean())
    assert errors["torch"] <= 1.05 * errors["pillow"]


def test_the_strongest_posters_are_black() -> None:
    policy = Augmentation(auto_augment="rand-m10-n1-p1.0-inc1", crop_scale=(1.0, 1.0), hflip=0.0)
    transform = train_transform(policy, 32, MEAN, STD)
    seen = []
    for number in range(60):
        seed(number)
        seen.append(levels(transform(gradient(32, 32))))
    assert any(bool((image.abs() < 0.01).all()) for image in seen)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 2)])
def test_the_smallest_images_are_images(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, (255, 0, 0))
    train, evaluate = train_transform(Augmentation(), 32, MEAN, STD), eval_transform(32, MEAN, STD)
    for number in range(20):
        seed(number)
        red = levels((train if number else evaluate)(image)).round()
        assert red.unique(dim=1).flatten(1).unique(dim=1).flatten().tolist() == [255, 0, 0]
