"""Parts of a training set: a share of it, and folds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from ltm_platform.data import open_data, open_dataset
from ltm_platform.data.subset import thinned
from ltm_platform.errors import UserError
from ltm_platform.job import Data, JobSpec

if TYPE_CHECKING:
    from pathlib import Path

    from ltm_platform.data import ImageSet


def places(source: ImageSet) -> set[str]:
    return {source.locate(index) for index in range(len(source))}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_the_folds_of_a_share_are_its_parts(cache: Path) -> None:
    whole = open_dataset("digits", cache=cache, val_fraction=0.2)
    held_out = []
    for fold in range(5):
        data = open_data(Data(path="digits", subset=0.1, fold=fold, folds=5), cache=cache)
        assert not places(data.train) & places(data.val)
        assert places(data.val) < places(whole.train)
        assert set(data.val.labels) == set(range(10))
        held_out.append(places(data.val))
        together = places(data.train) | places(data.val)
    assert set.union(*held_out) == together
    assert sum(map(len, held_out)) == len(together)
    assert len(together) == pytest.approx(len(whole.train) / 10, abs=5)


def test_an_image_of_a_part_is_that_of_the_whole(cache: Path) -> None:
    whole = open_dataset("digits", cache=cache, val_fraction=0.2).train
    part = open_data(Data(path="digits", subset=0.1), cache=cache).train
    by_place = {whole.locate(i): whole.read([i])[0] for i in range(len(whole))}
    asked = [7, 3]
    assert part.read(asked) == [by_place[part.locate(i)] for i in asked]
    assert [label for _, label in part.read(asked)] == list(part.labels[np.array(asked)])


def test_a_fold_beyond_the_last_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.fold is 5, but must be at most 4"):
        JobSpec.load("quickstart", ["data.fold=5"])


@pytest.mark.parametrize("images", [1, 7, 1437, 1438, 9999])
def test_a_few_images_lie_evenly_among_all(cache: Path, images: int) -> None:
    whole = open_dataset("digits", cache=cache, val_fraction=0.2).train
    few = thinned(whole, images)
    assert len(few) == min(images, len(whole))
    kept = [whole.locate(index) for index in range(len(whole))]
    found = np.array([kept.index(few.locate(index)) for index in range(min(len(few), 20))])
    assert (np.diff(found) >= len(whole) // max(images, 1)).all()
    assert (few.labels[: len(found)] == whole.labels[found]).all()
