from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from ltm_platform.compat.torch import empty_shared, is_running, resize_bicubic, shut_down


def test_the_processes_of_a_loader_end_when_they_are_told_to() -> None:
    data = TensorDataset(torch.arange(4))
    loader: DataLoader[tuple[torch.Tensor, ...]] = DataLoader(
        data, num_workers=1, persistent_workers=True, multiprocessing_context="fork"
    )
    assert not is_running(loader)
    assert len(list(loader)) == 4
    assert is_running(loader)
    (process,) = loader._iterator._workers  # type: ignore[union-attr]
    assert process.is_alive()
    shut_down(loader)
    assert not process.is_alive()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.uint8])
def test_a_tensor_is_made_where_processes_share_it(dtype: torch.dtype) -> None:
    made = empty_shared(torch.zeros(2, 3, dtype=dtype), (4, 2, 3))
    assert (made.shape, made.dtype, made.is_contiguous()) == ((4, 2, 3), dtype, True)
    assert made.is_shared()
    assert made.untyped_storage().nbytes() >= made.nbytes


@pytest.mark.parametrize("size", [(30, 40), (8, 9), (3, 4), (1, 1)])
def test_an_image_is_resized_into_memory_that_is_there(size: tuple[int, int]) -> None:
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (*size, 3), generator=draw, dtype=torch.uint8)
    batch = torch.zeros(3, 8, 9, 3, dtype=torch.uint8)
    resize_bicubic(pixels, batch[1])
    image = pixels.permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(image, (8, 9), mode="bicubic", antialias=True)
    assert torch.equal(batch[1].permute(2, 0, 1), expected[0])
    assert not batch[::2].any()
