"""torch: the ends of data loaders and backward passes, memory that processes share, how often one
compiles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from torch.utils.data import DataLoader


def is_running(loader: DataLoader[Any]) -> bool:
    """Whether a loader with ``persistent_workers`` has its processes."""
    return loader._iterator is not None


def shut_down(loader: DataLoader[Any]) -> None:
    """End the processes of a loader that runs, and wait for them.

    By itself it does so when the garbage collector finds its iterator.
    """
    loader._iterator._shutdown_workers()  # type: ignore[union-attr]  # of the one with processes


def empty_shared(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A tensor in the memory in which tensors travel to other processes, of the type of ``like``.

    ``share_memory_`` would make it elsewhere first and copy it there.
    """
    size = like.element_size()
    for length in shape:
        size *= length
    storage = like.untyped_storage()._new_shared(size, device=like.device)
    return like.new(storage).view(shape)


def allow_graphs(count: int) -> None:
    """How many graphs torch.compile makes at least of one function before it gives up, in this
    process. By default it is 8."""
    import torch._dynamo

    config = torch._dynamo.config
    config.recompile_limit = max(count, config.recompile_limit)


def after_gradients(loss: Tensor, call: Callable[[], None]) -> None:
    """Call once the backward pass of ``loss`` has computed all gradients; what others queue in the
    pass, as DDP does to wait for the other ranks, comes later."""
    from torch.autograd import Variable

    def queue(_: Tensor) -> None:
        Variable._execution_engine.queue_callback(call)

    loss.register_hook(queue)


def resize_bicubic(pixels: Tensor, out: Tensor) -> None:
    """Pixels [h, w, 3] uint8 resized with antialiasing, as Pillow does, to ``out`` [H, W, 3].

    ``interpolate`` cannot write to memory that is there.
    """
    size = list(out.shape[:2])
    image, resized = (values.permute(2, 0, 1)[None] for values in (pixels, out))
    torch.ops.aten._upsample_bicubic2d_aa.out(image, size, False, out=resized)
