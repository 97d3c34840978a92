from __future__ import annotations

import io
import pickle
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from ltm_platform.compat.image_loader.pixels import PixelRule
from ltm_platform.data.pixels import train_pipeline
from ltm_platform.data.pixels.exact import ExactTraining
from ltm_platform.data.pixels.fast import FastTraining
from ltm_platform.data.pixels.on_device import ToNetwork
from ltm_platform.data.pixels.sample import UndecodableError, collect
from ltm_platform.data.transforms import Augmentation

if TYPE_CHECKING:
    from ltm_platform.data.pixels.sample import Change, Pipeline

MEAN, STD, RULE, SIZE = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), PixelRule(), 64
PUBLISHED = Augmentation(auto_augment="rand-m9-mstd0.5", random_erasing=0.3, hflip=0.0)


def files(kind: str = "JPEG") -> list[bytes]:
    found = []
    for pixels in load_sample_images().images:
        file = io.BytesIO()
        Image.fromarray(pixels).resize((180, 120)).save(file, kind, quality=92)
        found.append(file.getvalue())
    return found


def sample(pipeline: Pipeline, data: bytes, number: int) -> tuple[torch.Tensor, Change]:
    out = torch.empty(pipeline.size, pipeline.size, 3, dtype=torch.uint8)
    change = pipeline(data, RULE, (7, 0, number), out)
    return out, change


def shown(pipeline: Pipeline, data: bytes, number: int) -> torch.Tensor:
    """As the network takes it."""
    out, change = sample(pipeline, data, number)
    return ToNetwork(MEAN, STD)(out.permute(2, 0, 1)[None], collect([change]))


def difference(one: Pipeline, other: Pipeline, data: bytes, number: int) -> torch.Tensor:
    """Mean over the values, in levels."""
    first, second = (sample(each, data, number)[0].float() for each in (one, other))
    return (first - second).abs().mean()


@pytest.mark.parametrize(
    "augment",
    [
        Augmentation(hflip=0.0),
        Augmentation(hflip=0.0, color_jitter=0.4),
        replace(PUBLISHED, random_erasing=0.0),
        Augmentation(hflip=0.0, auto_augment="original-mstd0.5"),
        Augmentation(hflip=0.0, auto_augment="3a", color_jitter=0.3),
        Augmentation(hflip=0.0, auto_augment="augmix-m5-w2"),
    ],
)
def test_samples_are_near_to_the_exact_ones(augment: Augmentation) -> None:
    """The same crops, operations and strengths, whatever the policy."""
    fast, exact = FastTraining(augment, SIZE, MEAN), ExactTraining(augment, SIZE, MEAN)
    differences = [
        difference(fast, exact, data, number) for data in files() for number in range(12)
    ]
    # Equalising or posterising makes more of a level here and there.
    assert torch.stack(differences).median() < 4
    assert torch.stack(differences).mean() < 8


def test_a_file_that_is_no_jpeg_is_as_near_as_torchs_filter() -> None:
    augment = Augmentation(hflip=0.0)
    fast, exact = FastTraining(augment, SIZE, MEAN), ExactTraining(augment, SIZE, MEAN)
    for number in range(5):
        for data in files("PNG"):
            assert torch.equal(sample(fast, data, number)[0], sample(exact, data, number)[0])


def test_the_same_rectangles_are_erased_as_by_timm() -> None:
    fast, exact = FastTraining(PUBLISHED, SIZE, MEAN), ExactTraining(PUBLISHED, SIZE, MEAN)
    boxes = []
    for number in range(30):
        ours, timms = (sample(one, files("PNG")[0], number)[1].erasure for one in (fast, exact))
        assert (ours and ours[:4]) == (timms and timms[:4])
        boxes.append(ours)
    assert 0 < sum(box is not None for box in boxes) < 30


def test_half_of_the_samples_are_flipped() -> None:
    plain = Augmentation(crop_scale=(1.0, 1.0), hflip=0.5)
    fast = FastTraining(plain, SIZE, MEAN)
    flips = [sample(fast, files()[0], number)[1].flip for number in range(60)]
    assert 15 < sum(flips) < 45
    upright = FastTraining(replace(plain, hflip=0.0), SIZE, MEAN)
    for number, flip in enumerate(flips[:6]):
        seen, stored = shown(fast, files()[0], number), shown(upright, files()[0], number)
        assert torch.equal(seen, stored.flip(-1) if flip else stored)


@pytest.mark.parametrize("decode", ["fast", "exact"])
def test_a_sample_depends_on_its_key_alone(decode: str) -> None:
    pipeline = train_pipeline(replace(PUBLISHED, hflip=0.5), SIZE, MEAN, decode)  # type: ignore[arg-type]
    again = pickle.loads(pickle.dumps(pipeline))  # as in a decode process
    first, second = files()
    expected = [shown(pipeline, first, number) for number in range(8)]
    shown(again, second, 100)
    assert all(torch.equal(shown(again, first, n), expected[n]) for n in (5, 2, 7))
    assert not torch.equal(expected[0], expected[1])


def test_damage_is_told_apart_from_other_errors() -> None:
    fast = FastTraining(Augmentation(), SIZE, MEAN)
    whole = files()[0]
    for damaged in (whole[:-500], whole[:300], b"text", b""):
        with pytest.raises(UndecodableError):
            sample(fast, damaged, 0)


def test_what_libjpeg_only_warns_of_is_shown_as_pillow_shows_it() -> None:
    """Pillow takes bytes between the pixels and the end."""
    data = files()[0]
    odd = data[:-2] + b"\0\0\0\0" + data[-2:]
    plain = Augmentation(crop_scale=(1.0, 1.0), hflip=0.0)
    fast, exact = FastTraining(plain, SIZE, MEAN), ExactTraining(plain, SIZE, MEAN)
    assert difference(fast, exact, odd, 3) < 4


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 2)])
def test_the_smallest_jpegs_are_images(size: tuple[int, int]) -> None:
    file = io.BytesIO()
    Image.new("RGB", size, (255, 0, 0)).save(file, "JPEG", quality=95)
    fast = FastTraining(Augmentation(), 32, MEAN)
    for number in range(20):
        out, _ = sample(fast, file.getvalue(), number)
        assert (out.float() - torch.tensor([255.0, 0.0, 0.0])).abs().max() <= 3
