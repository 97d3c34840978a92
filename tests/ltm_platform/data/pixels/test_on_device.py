from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms import Normalize

from ltm_platform.data.pixels import on_device
from ltm_platform.data.pixels.on_device import NOISE_VALUES, ToNetwork
from ltm_platform.data.pixels.sample import Change, Changes, Erasure, collect

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=NO_GPU)]


def images(count: int = 4, size: int = 12) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, size, size), generator=draw, dtype=torch.uint8)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("device", DEVICES)
def test_values_are_torchvisions_bit_for_bit(device: str, layout: torch.memory_format) -> None:
    expected = Normalize(MEAN, STD)(images().float().div(255))
    got = ToNetwork(MEAN, STD)(images().contiguous(memory_format=layout).to(device))
    assert torch.equal(got.cpu(), expected)
    assert got.is_contiguous()


def changes() -> Changes:
    own = Erasure(0, 1, 2, 3, 5)
    both = Change(True, Erasure(4, 5, 6, 7, 9))
    return collect([Change(True), Change(False, own), both, Change()])


@pytest.mark.parametrize("device", DEVICES)
def test_samples_are_flipped_and_then_erased(device: str) -> None:
    to_network = ToNetwork(MEAN, STD)
    plain = to_network(images())
    got = to_network(images().to(device), changes()).cpu()
    expected = plain.clone()
    expected[0], expected[2] = plain[0].flip(-1), plain[2].flip(-1)
    for row, box, begin in ((1, np.s_[:, 0:2, 1:4], 5), (2, np.s_[:, 4:10, 5:12], 9)):
        part = expected[row][box]
        part[:] = on_device._noise()[begin : begin + part.numel()].view(part.shape)
    assert torch.equal(got, expected)


def test_all_at_once_is_each_in_turn() -> None:
    """The way of GPUs, on a CPU."""
    to_network = ToNetwork(MEAN, STD)
    out = torch.empty(4, 3, 12, 12)
    to_network._all_at_once(images(), changes(), out)
    to_network._erase(changes(), out)
    assert torch.equal(out, to_network(images(), changes()))


def test_noise_that_came_along_is_used() -> None:
    patches = [torch.full((3, 2, 3), 5.0), torch.full((3, 1, 1), 6.0)]
    erased = [Change(), *(Change(False, Erasure(1, 2, *p.shape[1:], p)) for p in patches), Change()]
    got = ToNetwork(MEAN, STD)(images(), collect(erased))
    assert torch.equal(got[1, :, 1:3, 2:5], patches[0])
    assert torch.equal(got[2, :, 1:2, 2:3], patches[1])


def test_a_large_rectangle_goes_round_the_table() -> None:
    begin = NOISE_VALUES - 2
    got = ToNetwork(MEAN, STD)(images(1), collect([Change(False, Erasure(0, 0, 2, 1, begin))]))
    table = on_device._noise()
    assert got[0, :, :2, 0].flatten().tolist() == [*table[-2:].tolist(), *table[:4].tolist()]


def test_noise_is_normal() -> None:
    table = on_device._noise().double()
    assert abs(float(table.mean())) < 0.005
    assert float(table.std()) == pytest.approx(1, abs=0.005)


def test_memory_that_is_there_is_used_again() -> None:
    to_network, out = ToNetwork(MEAN, STD), torch.empty(4, 3, 12, 12)
    assert to_network(images(), changes(), out) is out
    assert torch.equal(out, to_network(images(), changes()))
