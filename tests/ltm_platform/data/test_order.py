from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from ltm_platform.data.order import Order, check_global_batch
from ltm_platform.errors import UserError


def test_every_image_comes_once_in_every_pass() -> None:
    order = Order(images=23, global_batch=5, seed=3)
    stream = np.concatenate([b.indices for e in range(5) for b in order.epoch(e)])
    passes = stream.reshape(5, 23)
    assert all(sorted(one) == list(range(23)) for one in passes.tolist())
    assert passes[0].tolist() != passes[1].tolist()


def test_passes_are_counted() -> None:
    order = Order(images=23, global_batch=5, seed=3)
    passes = np.concatenate([b.passes for e in range(20) for b in order.epoch(e)])
    assert passes.tolist() == np.repeat(np.arange(20), 23).tolist()


@pytest.mark.parametrize("images", [5, 20, 23, 24])
def test_an_epoch_ends_with_the_batch_that_holds_the_last_image_of_its_pass(images: int) -> None:
    order = Order(images, global_batch=5, seed=3)
    for epoch in range(7):
        *before, last = order.epoch(epoch)
        assert order.steps(epoch + 1) - order.steps(epoch) == len(before) + 1
        assert epoch in last.passes
        assert all(max(batch.passes) == epoch for batch in before)
        (following,) = islice(order.epoch(epoch + 1), 1)
        assert min(following.passes) == epoch + 1


def test_epochs_are_counted_by_their_steps() -> None:
    order = Order(images=23, global_batch=5, seed=3)
    assert [order.steps(epochs) for epochs in range(6)] == [0, 5, 10, 14, 19, 23]
    assert [order.epochs(steps) for steps in (0, 4, 5, 9, 10, 13, 14, 18, 19)] == [
        0, 0, 1, 1, 2, 2, 3, 3, 4,
    ]  # fmt: skip


def test_an_epoch_can_begin_anywhere() -> None:
    order = Order(images=1000, global_batch=64, seed=0)
    whole = [b.indices.tolist() for b in order.epoch(7)]
    assert [b.indices.tolist() for b in order.epoch(7, start=11)] == whole[11:]
    assert list(order.epoch(7, start=len(whole))) == []


def test_seeds_differ() -> None:
    first = [next(islice(Order(100, 10, seed).epoch(0), 1)).indices.tolist() for seed in (0, 1)]
    assert first[0] != first[1]


def test_a_batch_larger_than_the_data_is_refused_with_the_largest_that_fits() -> None:
    check_global_batch(100, 100)
    with pytest.raises(UserError, match=r"at most 100 can be used\."):
        check_global_batch(100, 128)
    with pytest.raises(UserError, match="at most 99 can be used on 3 workers"):
        check_global_batch(100, 128, world_size=3)
    with pytest.raises(UserError, match="at most 2 workers"):
        check_global_batch(2, 4, world_size=4)
