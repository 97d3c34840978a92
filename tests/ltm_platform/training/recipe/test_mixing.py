"""Mixup and CutMix: drawn once a step, whatever the batch is divided into."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ltm_platform.job import Mix, Recipe
from ltm_platform.training.recipe.mixing import Mixer
from ltm_platform.training.recipe.optimization import hard_labels

CLASSES = 5
BATCH = 12


def mixer(until: float = 1.0, seed: int = 0, **mix: float) -> Mixer:
    return Mixer(Recipe(epochs=10, seed=seed, mix=Mix(until=until, **mix)), CLASSES)


def batch() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, 3, 16, 16, generator=random)
    return images, torch.arange(BATCH) % CLASSES


@pytest.mark.parametrize("mix", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}])
@pytest.mark.parametrize("size", [2, 4, 6, 12])
def test_the_division_of_the_batch_changes_nothing(mix: dict[str, float], size: int) -> None:
    for step in range(8):
        whole = mixer(**mix)(*batch(), step, 0)
        parts = [
            mixer(**mix)(images, labels, step, 0)
            for images, labels in zip(*(t.split(size) for t in batch()), strict=True)
        ]
        for mine, reference in zip(zip(*parts, strict=True), whole, strict=True):
            assert torch.equal(torch.cat(mine), reference)


def test_neighbours_are_mixed_and_their_labels_alike() -> None:
    images, labels = batch()
    mixed, shares = mixer(mixup=0.8)(images.clone(), labels, 3, 0)
    own = shares[0, labels[0]].item()
    assert 0 < own < 1
    torch.testing.assert_close(mixed[0], own * images[0] + (1 - own) * images[1])
    torch.testing.assert_close(mixed[1], own * images[1] + (1 - own) * images[0])
    torch.testing.assert_close(shares[0, labels[1]].item(), 1 - own, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(shares.sum(1), torch.ones(BATCH))


def test_a_cut_box_is_the_neighbours_and_its_area_the_share() -> None:
    images, labels = batch()
    mixed, shares = mixer(cutmix=1.0)(images.clone(), labels, 1, 0)
    from_neighbour = (mixed[0] == images[1]).all(0)
    assert ((mixed[0] == images[0]).all(0) | from_neighbour).all()
    share = from_neighbour.float().mean()
    assert 0 < share < 1
    torch.testing.assert_close(shares[0, labels[1]], share)


def test_steps_and_seeds_draw_anew() -> None:
    def share(step: int, seed: int) -> float:
        return round(mixer(mixup=0.8, seed=seed)(*batch(), step, 0)[1].max().item(), 6)

    assert len({share(step, seed) for step in range(5) for seed in range(2)}) > 8


def test_others_who_draw_from_numpy_are_not_disturbed() -> None:
    np.random.seed(7)  # noqa: NPY002
    expected = np.random.rand()  # noqa: NPY002
    np.random.seed(7)  # noqa: NPY002
    mixer(mixup=0.8)(*batch(), 0, 0)
    assert np.random.rand() == expected  # noqa: NPY002


@pytest.mark.parametrize(("until", "epoch", "mixes"), [(0.5, 4, True), (0.5, 5, False)])
def test_the_last_epochs_may_be_unmixed(until: float, epoch: int, mixes: bool) -> None:
    images, labels = batch()
    mixed, after = mixer(until=until, mixup=0.8)(images.clone(), labels, 0, epoch)
    assert (after.ndim == 2) == mixes
    assert torch.equal(mixed, images) != mixes


def test_without_mixing_all_stays() -> None:
    images, labels = batch()
    same = mixer()(images, labels, 0, 0)
    assert same[0] is images
    assert same[1] is labels


def test_a_mixed_image_counts_as_what_most_of_it_is() -> None:
    shares = torch.tensor([[0.3, 0.7, 0.0], [0.6, 0.0, 0.4]])
    assert hard_labels(shares).tolist() == [1, 0]
    assert hard_labels(torch.tensor([2, 1])).tolist() == [2, 1]
