from __future__ import annotations

import io
import math
import pickle
import random
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from ltm_platform.data import Dataset, open_dataset
from ltm_platform.data.loader import EvalLoader, Loader
from ltm_platform.data.order import Order
from ltm_platform.data.pixels.exact import ExactEvaluation
from ltm_platform.data.pixels.fast import FastTraining
from ltm_platform.data.pixels.on_device import ToNetwork
from ltm_platform.data.sources.folder import FolderImages
from ltm_platform.data.sources.shards import Record, ShardImages, write_shards
from ltm_platform.data.transforms import Augmentation, eval_pixels
from ltm_platform.errors import ReadError, UserError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from conftest import Tree

    from ltm_platform.data import ImageSet
    from ltm_platform.data.loader import TrainingBatch
    from ltm_platform.data.pixels.sample import Pipeline

HALF = (0.5, 0.5, 0.5)
# Draws from Python's, numpy's and torch's generator.
STRONG = FastTraining(
    Augmentation(auto_augment="rand-m9-mstd0.5-inc1", random_erasing=0.5), 16, HALF
)
PLAIN = ExactEvaluation(8)
TO_NETWORK = ToNetwork(HALF, HALF)
GLOBAL_BATCH = 32


def loader(source: ImageSet, *, rank: int = 0, world_size: int = 1, workers: int = 0) -> Loader:
    return Loader(
        source,
        STRONG,
        micro_batch=4,
        accumulation=GLOBAL_BATCH // (4 * world_size),
        rank=rank,
        world_size=world_size,
        seed=5,
        workers=workers,
    )


def step_samples(
    source: ImageSet, epoch: int, step: int, *, world_size: int = 1, workers: int = 0
) -> list[bytes]:
    """All images of one global batch over all ranks as bytes, sorted."""
    found = []
    for rank in range(world_size):
        with closing(loader(source, rank=rank, world_size=world_size, workers=workers)) as part:
            steps = part.epoch(epoch, start=step)
            found += samples(islice(steps, GLOBAL_BATCH // (4 * world_size)))
    return sorted(found)


def samples(batches: Iterable[TrainingBatch]) -> list[bytes]:
    """Each image as a network takes it, with its label, as bytes."""
    return [
        bytes([label]) + image.numpy().tobytes()
        for images, labels, changes in batches
        for image, label in zip(TO_NETWORK(images, changes), labels.tolist(), strict=True)
    ]


# Step 44 of epoch 1, its last, spans two passes over the 1,438 images.
@pytest.mark.parametrize(("epoch", "step"), [(0, 0), (1, 0), (1, 44)])
def test_world_size_and_workers_change_no_sample(digits: Dataset, epoch: int, step: int) -> None:
    expected = step_samples(digits.train, epoch, step)
    assert len(expected) == GLOBAL_BATCH
    for world_size, workers in [(2, 0), (4, 0), (1, 1), (1, 2), (2, 2)]:
        got = step_samples(digits.train, epoch, step, world_size=world_size, workers=workers)
        assert got == expected, (world_size, workers)


def test_an_epoch_left_in_the_middle_goes_on_at_the_next_sample_on_other_ranks(
    digits: Dataset,
) -> None:
    source = digits_subset(digits, 3 * GLOBAL_BATCH - 5)
    undisturbed = [step_samples(source, 1, step) for step in range(3)]
    with closing(loader(source, world_size=1, workers=1)) as before:
        done = list(islice(before.epoch(1), GLOBAL_BATCH // 4))
    assert sum(len(batch.labels) for batch in done) == GLOBAL_BATCH
    # One step was done on one rank; four go on.
    ranks = [list(loader(source, rank=r, world_size=4).epoch(1, start=1)) for r in range(4)]
    assert [len(rest) for rest in ranks] == [2 * GLOBAL_BATCH // (4 * 4)] * 4
    for step in (1, 2):
        images = slice((step - 1) * 2, step * 2)
        assert sorted(samples(b for rest in ranks for b in rest[images])) == undisturbed[step]
    assert list(loader(source).epoch(1, start=3)) == []


def test_yields_images_as_bytes_and_labels(digits: Dataset) -> None:
    train = loader(digits.train)
    batches = list(train.epoch(0))
    assert train.steps(1) == math.ceil(1438 / GLOBAL_BATCH)
    assert len(batches) == train.steps(1) * GLOBAL_BATCH // 4
    images, labels, changes = batches[0]
    assert (images.shape, images.dtype) == ((4, 3, 16, 16), torch.uint8)
    assert TO_NETWORK(images, changes).dtype == torch.float32
    assert (labels.shape, labels.dtype) == ((4,), torch.int64)


def test_augmentation_differs_between_passes(digits: Dataset) -> None:
    one_image = digits_subset(digits, 1)
    only = Loader(
        one_image, STRONG, micro_batch=1, accumulation=1, rank=0, world_size=1, seed=0, workers=0
    )
    images = [TO_NETWORK(b.images, b.changes) for b in (next(only.epoch(e)) for e in range(4))]
    assert not any(torch.equal(images[0], other) for other in images[1:])


def test_the_training_process_keeps_its_random_state(digits: Dataset) -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002

    def seed() -> None:
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        torch.manual_seed(1)

    seed()
    expected = draw()
    for workers in (0, 1):
        with closing(loader(digits.train, workers=workers)) as train:
            seed()
            next(train.epoch(0))
            assert draw() == expected, workers


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_decoded_is_named(tree: Tree, workers: int) -> None:
    tree.add("train/a/1.png", "train/a/2.png", "val/a/1.png")
    whole = (tree.root / "train/a/2.png").read_bytes()
    for damaged, reason in ((whole[:-30], "cannot be decoded"), (b"text", "not a known image")):
        (tree.root / "train/a/2.png").write_bytes(damaged)
        source = open_dataset(str(tree.root), cache=tree.root, val_fraction=0.5).train
        train = EvalLoader(source, PLAIN, batch=2, rank=0, world_size=1, workers=workers)
        with closing(train), pytest.raises(UserError, match=reason) as caught:
            next(iter(train))
        assert str(caught.value).startswith(f"image 'a/2.png' of {tree.root}/train cannot")
        assert "0x" not in str(caught.value)


def damaged(tree: Tree, images: int, bad: set[int]) -> ImageSet:
    """The training images of a tree, of which some are cut short."""
    tree.add(*(f"train/a/{n:02d}.png" for n in range(images)), "val/a/0.png")
    for number in bad:
        noise = np.random.default_rng(number).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        file = tree.root / f"train/a/{number:02d}.jpg"
        Image.fromarray(noise).save(file)
        file.write_bytes(file.read_bytes()[:-200])
        file.rename(tree.root / f"train/a/{number:02d}.png")
    return open_dataset(str(tree.root), cache=tree.root, val_fraction=0.5).train


def replacing(
    source: ImageSet,
    *,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    pipeline: Pipeline = STRONG,
) -> Loader:
    return Loader(
        source,
        pipeline,
        micro_batch=2,
        accumulation=4 // world_size,
        rank=rank,
        world_size=world_size,
        seed=5,
        workers=workers,
        allow_bad=0.2,
    )


def test_the_next_image_of_the_pass_takes_the_place_of_a_bad_one(tree: Tree) -> None:
    bad = {4, 11, 12}
    source = damaged(tree, 20, bad)
    order = Order(20, 8, 5)
    for epoch in range(3):
        expected = []
        for batch in order.epoch(epoch):
            for index, number in zip(batch.indices.tolist(), batch.passes.tolist(), strict=True):
                while index in bad:
                    index = order.image_after(index, number)
                expected.append(index)
        # Every image has a colour of its own, and PLAIN keeps it.
        with closing(replacing(source, pipeline=PLAIN)) as train:
            shown = [image for images, *_ in train.epoch(epoch) for image in images]
        plain = [shown_plainly(source, index) for index in expected]
        assert len(shown) == len(plain)
        assert all(torch.equal(*pair) for pair in zip(shown, plain, strict=True))
        assert train.bad.found.keys() == (bad if epoch == 0 else train.bad.found.keys() & bad)
        assert all("cannot be decoded" in sentence for sentence in train.bad.found.values())


def test_a_bad_image_changes_nothing_for_workers_ranks_and_resuming(tree: Tree) -> None:
    source = damaged(tree, 20, {4, 11, 12})

    def seen(start: int, *, world_size: int = 1, workers: int = 0) -> list[bytes]:
        found = []
        for rank in range(world_size):
            part = replacing(source, rank=rank, world_size=world_size, workers=workers)
            with closing(part):
                found += samples(part.epoch(0, start))
        return sorted(found)

    expected = seen(0)
    assert len(expected) == 24
    assert seen(0, world_size=2) == seen(0, world_size=2, workers=1) == seen(0, workers=2)
    assert seen(0, world_size=2) == expected
    rest = seen(2)
    assert len(rest) == 8
    assert set(rest) <= set(expected)


def test_more_bad_images_than_may_be_end_the_run_by_name(tree: Tree) -> None:
    source = damaged(tree, 20, {3, 4, 5, 6, 7})
    with (
        closing(replacing(source)) as train,
        pytest.raises(UserError, match=r"data\.allow_bad of 0\.2 allows 4") as caught,
    ):
        list(train.epoch(0))
    message = str(caught.value)
    assert message.startswith(f"image 'a/03.png' of {tree.root}/train cannot be decoded: ")
    assert message.count("cannot be decoded") == 3
    assert " and 2 more: that is 5 of 20 training images" in message
    assert "\n" not in message


def test_nothing_but_bad_images_ends_the_run(tree: Tree) -> None:
    source = damaged(tree, 8, set(range(8)))
    with (
        closing(replacing(source)) as train,
        pytest.raises(UserError, match="8 training images"),
    ):
        list(train.epoch(0))


@pytest.mark.parametrize("workers", [0, 1])
def test_validation_does_not_count_a_bad_image(tree: Tree, workers: int) -> None:
    source = damaged(tree, 10, {0, 9})
    val = EvalLoader(source, PLAIN, batch=4, rank=0, world_size=1, workers=workers, allow_bad=0.2)
    with closing(val):
        valid = torch.cat([valid for *_, valid in val])
        assert valid.tolist() == [False, *[True] * 8, False, False, False]
        assert val.bad.found.keys() == {0, 9}
        assert len(list(val)) == 3, "again, with the same images left out"
    strict = EvalLoader(source, PLAIN, batch=4, rank=0, world_size=1, workers=0, allow_bad=0.1)
    with pytest.raises(UserError, match="that is 2 of 10 validation images, and"):
        list(strict)


def test_a_shard_that_changed_is_no_bad_image(digits: Dataset) -> None:
    source = digits_subset(digits, 16)
    assert isinstance(source, ShardImages)
    (file,) = (Path(source.folder.path)).iterdir()
    whole = file.read_bytes()
    try:
        file.write_bytes(whole.replace(source.read([3])[0][0], b"\0" * len(source.read([3])[0][0])))
        with closing(replacing(source)) as train, pytest.raises(UserError, match="is damaged"):
            list(train.epoch(0))
    finally:
        file.write_bytes(whole)


@pytest.mark.parametrize("workers", [0, 1])
def test_what_cannot_be_read_now_may_be_read_later(tree: Tree, workers: int) -> None:
    """Such as of a share that is away: unlike a damaged image it is worth another attempt."""
    source = damaged(tree, 8, set())
    (tree.root / "train/a/03.png").unlink()
    with closing(replacing(source, workers=workers)) as train, pytest.raises(ReadError) as caught:
        list(train.epoch(0))
    assert str(caught.value).startswith(f"image 'a/03.png' of {tree.root}/train cannot be read")


def test_grey_palette_and_transparent_images_become_rgb(tree: Tree) -> None:
    tree.add("train/a/1.png", "val/a/1.png")
    for mode in ("L", "P", "RGBA", "CMYK", "1", "I;16"):
        suffix = "jpg" if mode == "CMYK" else "png"
        Image.new(mode, (9, 9)).save(tree.root / f"train/a/{mode.replace(';', '')}.{suffix}")
    source = open_dataset(str(tree.root), cache=tree.root, val_fraction=0.5).train
    (images, *_) = next(iter(EvalLoader(source, PLAIN, batch=7, rank=0, world_size=1, workers=0)))
    assert images.shape == (7, 3, 8, 8)


@pytest.mark.parametrize("images", [1, 3, 8, 21, 24])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_evaluation_counts_every_image_once(digits: Dataset, images: int, world_size: int) -> None:
    source = digits_subset(digits, images)
    seen = []
    steps = set()
    for rank in range(world_size):
        part = EvalLoader(source, PLAIN, batch=4, rank=rank, world_size=world_size, workers=0)
        batches = list(part)
        steps.add(len(batches))
        assert len(batches) == len(part)
        for pixels, labels, valid in batches:
            assert pixels.shape == (4, 3, 8, 8)
            assert labels.shape == valid.shape == (4,)
            seen += [image.numpy().tobytes() for image in pixels[valid]]
    assert len(steps) == 1
    expected = [shown_plainly(source, i).numpy().tobytes() for i in range(images)]
    assert sorted(seen) == sorted(expected)


def test_a_source_smaller_than_the_global_batch_is_refused(digits: Dataset) -> None:
    with pytest.raises(UserError, match="at most 20 can be used"):
        loader(digits_subset(digits, 20))


def test_what_a_decode_process_is_given_stays_small(tmp_path: Path) -> None:
    def size(source: ImageSet) -> int:
        return len(pickle.dumps(source))

    paths, labels = [f"class/{n:024d}.jpg" for n in range(20_000)], np.zeros(20_000, np.int64)
    folder = FolderImages(tmp_path, paths, labels, ("class",))
    # The path itself, its end and the label: 65 MB of ImageNet.
    assert size(folder) < 20_000 * (len(paths[0]) + 16) + 10_000
    records = [Record(b"image", 0, path) for path in paths]
    shards = [
        ShardImages(write_shards(tmp_path / str(count), "train", records[:count], ["class"]))
        for count in (10_000, 20_000)
    ]
    # Where the image lies, how long it is, its label and checksum: 31 MB of ImageNet.
    assert size(shards[1]) - size(shards[0]) < 10_000 * 24 + 1000


def digits_subset(digits: Dataset, images: int) -> ImageSet:
    """The first ``images`` digits."""
    assert isinstance(digits.train, ShardImages)
    folder = Path(digits.train.folder.path).parent / f"first-{images}"
    records = [
        Record(data, label, f"{index}")
        for index, (data, label) in enumerate(digits.train.read(range(images)))
    ]
    return ShardImages(write_shards(folder, "train", records, digits.classes))


def shown_plainly(source: ImageSet, index: int) -> torch.Tensor:
    ((data, _),) = source.read([index])
    return eval_pixels(PLAIN.size)(Image.open(io.BytesIO(data)).convert("RGB"))
