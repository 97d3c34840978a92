"""Batches arrive in their order, each once, and on a GPU one ahead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch
from torch import Tensor

from ltm_platform.training.prefetch import CopyNow, DevicePrefetcher, copies_to, each_tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

CPU = torch.device("cpu")


class Logged:
    """Copies of numbers, which tell when they begin and arrive."""

    def __init__(self, ahead: int, log: list[str]) -> None:
        self.ahead, self._log = ahead, log

    def begin(self, batch: int) -> int:
        self._log.append(f"begin {batch}")
        return batch

    def arrive(self, batch: int) -> None:
        self._log.append(f"arrive {batch}")


@pytest.mark.parametrize("count", [0, 1, 2, 3])
@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_every_batch_comes_once_and_in_order(ahead: int, count: int) -> None:
    batches = DevicePrefetcher(range(count), CPU, Logged(ahead, []))
    assert list(batches) == list(range(count))
    assert list(batches) == list(range(count)), "a second epoch"


def test_the_next_batch_is_on_its_way_while_one_is_computed() -> None:
    log: list[str] = []
    batches = DevicePrefetcher(range(3), CPU, Logged(1, log))
    log.extend(f"step {batch}" for batch in batches)
    assert log == [
        *("begin 0", "begin 1", "arrive 0", "step 0"),
        *("begin 2", "arrive 1", "step 1"),
        *("arrive 2", "step 2"),
    ]


def test_on_a_cpu_nothing_is_read_ahead_and_nothing_copied() -> None:
    images, read = torch.rand(2, 3), list[int]()

    def loader() -> Iterator[tuple[Tensor, Tensor]]:
        for index in range(3):
            read.append(index)
            yield images, images[0]

    for index, (same, row) in enumerate(DevicePrefetcher(loader(), CPU)):
        assert read == list(range(index + 1))
        assert same is images
        assert row.data_ptr() == images.data_ptr()


def test_an_error_of_the_loader_comes_through_and_leaving_early_closes_it() -> None:
    closed: list[bool] = []

    def loader() -> Iterator[int]:
        try:
            yield 0
            yield 1
            raise OSError("gone")
        finally:
            closed.append(True)

    with pytest.raises(OSError, match="gone"):
        list(DevicePrefetcher(loader(), CPU, Logged(1, [])))
    assert closed == [True]
    batches = loader()
    assert next(iter(DevicePrefetcher(batches, CPU, Logged(0, [])))) == 0
    assert next(batches) == 1, "what was not begun is still the loader's"


def test_another_device_gets_a_copy_of_every_tensor_in_a_batch() -> None:
    meta = torch.device("meta")
    assert isinstance(copies_to(meta), CopyNow)
    ((images, named),) = DevicePrefetcher([(torch.rand(2), {"seen": torch.ones(1), "n": 3})], meta)
    assert images.device == named["seen"].device == meta
    assert named["n"] == 3


class Pair(NamedTuple):
    images: Tensor
    names: list[str]


@dataclass(frozen=True)
class Record:
    pair: Pair
    boxes: list[Any]


def test_tensors_are_found_wherever_they_lie() -> None:
    record = Record(Pair(torch.ones(2), ["a"]), [torch.ones(1), (torch.ones(3), None)])
    doubled = each_tensor(lambda tensor: 2 * tensor, record)
    assert isinstance(doubled, Record)
    assert isinstance(doubled.pair, Pair)
    assert doubled.pair.names == ["a"]
    found: list[Tensor] = []
    each_tensor(lambda tensor: (found.append(tensor), tensor)[1], doubled)
    assert [(len(one), float(one.sum())) for one in found] == [(2, 4.0), (1, 2.0), (3, 6.0)]
