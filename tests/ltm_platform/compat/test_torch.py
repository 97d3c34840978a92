from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from ltm_platform.compat.torch import (
    after_gradients,
    allow_graphs,
    empty_shared,
    is_running,
    resize_bicubic,
    shut_down,
)


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


@torch._dynamo.config.patch(recompile_limit=2)
def test_a_function_has_as_many_graphs_as_are_allowed() -> None:
    def graphs() -> int:
        made: list[Any] = []

        def count(graph: Any, _inputs: Any) -> Any:
            made.append(graph)
            return graph.forward

        torch.compiler.reset()
        compiled = torch.compile(lambda x: x + 1, backend=count, dynamic=False)
        for size in range(1, 5):
            compiled(torch.ones(size))
        return len(made)

    assert graphs() == 2
    allow_graphs(4)
    assert graphs() == 4
    allow_graphs(3)
    assert torch._dynamo.config.recompile_limit == 4


def test_the_end_of_a_backward_pass_is_told_before_what_it_waits_for() -> None:
    log: list[str] = []
    first = torch.nn.Linear(2, 2)

    def accumulated(_: torch.Tensor) -> None:
        log.append("gradient")
        torch.autograd.Variable._execution_engine.queue_callback(lambda: log.append("wait"))

    first.weight.register_post_accumulate_grad_hook(accumulated)
    loss = first(torch.ones(1, 2)).sum()

    def told() -> None:
        log.append("told")

    after_gradients(loss, told)
    (loss / 2).backward()
    assert log == ["gradient", "told", "wait"]


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
