"""Batches on their way to the device while it computes another one."""

from __future__ import annotations

from collections import deque
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Batch = TypeVar("Batch")


class Copies(Protocol):
    """How a batch comes to a device: begun, and later waited for."""

    ahead: int
    """How many batches are on their way before one is needed."""

    def begin(self, batch: Any) -> Any:
        """The batch on the device; what computes on it has to wait for `arrive`."""

    def arrive(self, batch: Any) -> None:
        """What the caller computes from here on comes after the copy; in the order of `begin`."""


class CopyNow:
    """For devices whose work the host does itself: nothing travels while it computes.

    On a CPU a batch is what it was.
    """

    ahead = 0

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def begin(self, batch: Any) -> Any:
        return each_tensor(self._there, batch)

    def _there(self, tensor: Tensor) -> Tensor:
        return tensor if tensor.device == self._device else tensor.to(self._device)

    def arrive(self, batch: Any) -> None:
        """It is there."""


class CopyOnStream:
    """From pinned memory, in a stream of its own: neither host nor computation wait for it."""

    ahead = 1

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._copies = deque[torch.cuda.Event]()

    def begin(self, batch: Any) -> Any:
        with torch.cuda.stream(self._stream):
            copied = each_tensor(self._copied, batch)
        self._copies.append(self._stream.record_event())
        return copied

    def _copied(self, tensor: Tensor) -> Tensor:
        pinned = tensor if tensor.is_pinned() else tensor.pin_memory()
        return pinned.to(self._device, non_blocking=True)

    def arrive(self, batch: Any) -> None:
        current = torch.cuda.current_stream(self._device)
        # not for the stream, where the next batch is already being copied
        current.wait_event(self._copies.popleft())
        # else its memory could be handed out for the next copy while it is still computed on
        each_tensor(lambda tensor: _note_stream(tensor, current), batch)


def _note_stream(tensor: Tensor, stream: Any) -> Tensor:
    tensor.record_stream(stream)
    return tensor


class DevicePrefetcher(Generic[Batch]):
    """The batches of a loader on the device; on a GPU the next one travels during a step.

    Batches are tensors, or tuples, lists, dicts and dataclasses of them and of anything else, which
    stays as it is. They come in their order, each once. An error of the loader is raised when its
    batch would be begun, that is up to `Copies.ahead` batches early.

    copies: None for what fits the device.
    """

    def __init__(
        self, batches: Iterable[Batch], device: torch.device, copies: Copies | None = None
    ) -> None:
        self._batches = batches
        self._copies = copies or copies_to(device)

    def __iter__(self) -> Iterator[Batch]:
        copies, begun = self._copies, list[Batch]()
        for batch in self._batches:
            begun.append(copies.begin(batch))
            if len(begun) > copies.ahead:
                yield self._arrived(begun)
        while begun:
            yield self._arrived(begun)

    def _arrived(self, begun: list[Batch]) -> Batch:
        batch = begun.pop(0)
        self._copies.arrive(batch)
        return batch


def copies_to(device: torch.device) -> Copies:
    """What brings batches to this kind of device."""
    return CopyOnStream(device) if device.type == "cuda" else CopyNow(device)


def each_tensor(do: Callable[[Tensor], Tensor], batch: Any) -> Any:
    """The batch with every tensor replaced."""
    if isinstance(batch, Tensor):
        return do(batch)
    if isinstance(batch, dict):
        return {key: each_tensor(do, value) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(each_tensor(do, value) for value in batch))
    if isinstance(batch, tuple | list):
        return type(batch)(each_tensor(do, value) for value in batch)
    if is_dataclass(batch) and not isinstance(batch, type):
        values = {field.name: getattr(batch, field.name) for field in fields(batch)}
        return replace(batch, **{name: each_tensor(do, value) for name, value in values.items()})
    return batch
