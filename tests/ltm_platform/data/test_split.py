from __future__ import annotations

import numpy as np
import pytest

from ltm_platform.data.split import stratified_split


def test_every_class_is_in_both_parts_unless_it_has_one_image() -> None:
    labels = np.repeat(np.arange(5), [1, 2, 3, 10, 100])
    keys = [f"{i}.png" for i in range(len(labels))]
    for fraction in (0.01, 0.2, 0.99):
        train, val = stratified_split(labels, keys, fraction)
        assert sorted([*train, *val]) == list(range(len(labels)))
        assert np.bincount(labels[train], minlength=5).min() >= 1
        assert np.bincount(labels[val], minlength=5)[0] == 0
        assert np.bincount(labels[val], minlength=5)[1:].min() >= 1
    _, val = stratified_split(labels, keys, 0.2)
    assert np.bincount(labels[val], minlength=5).tolist() == [0, 1, 1, 2, 20]


def test_split_is_fixed_for_ever() -> None:
    labels, keys = np.zeros(10, dtype=np.int64), [f"{i}.png" for i in range(10)]
    assert stratified_split(labels, keys, 0.3)[1].tolist() == [1, 3, 8]


def test_a_new_image_moves_at_most_one_other() -> None:
    keys = [f"{i}.png" for i in range(200)]
    before = set(stratified_split(np.zeros(199, dtype=np.int64), keys[:199], 0.25)[1])
    after = set(stratified_split(np.zeros(200, dtype=np.int64), keys, 0.25)[1])
    assert len(before - after) <= 1


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1])
def test_impossible_fraction(fraction: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        stratified_split(np.zeros(4, dtype=np.int64), list("abcd"), fraction)
