"""Counts where the host would wait for a device, were there one: told on a CPU.

Operators tell of what happens below Python (a mask as an index looks for what is not zero, and so
waits for its number); functions tell of what no operator sees on a CPU, where a copy to the host is
nothing at all.
"""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from collections.abc import Iterator

aten = torch.ops.aten

_TORCH = str(Path(torch.__file__).parent)
_OPERATORS = {
    aten._local_scalar_dense,
    aten.bincount,
    aten.equal,
    aten.masked_select,
    aten.nonzero,
    aten.repeat_interleave,
    aten._unique2,
    aten.unique_consecutive,
    aten.unique_dim,
}
_FUNCTIONS = {
    Tensor.__array__,
    Tensor.cpu,
    Tensor.numpy,
    Tensor.tolist,
    torch.as_tensor,  # a copy to the device waits, too, but from pinned memory
    torch.tensor,
}
_INDEXING = {aten.index, aten.index_put, aten.index_put_}


class HostSyncs:
    """What made the host wait, as "operation at file:line", and how often."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def note(self, what: str) -> None:
        self.counts[f"{what} at {_caller()}"] += 1


@contextmanager
def host_syncs() -> Iterator[HostSyncs]:
    """Counts in the block, in this thread and in what autograd runs for it."""
    found = HostSyncs()
    with _Functions(found), _Operators(found):
        yield found


class _Operators(TorchDispatchMode):
    def __init__(self, found: HostSyncs) -> None:
        super().__init__()
        self._found = found

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func.overloadpacket
        if packet in _OPERATORS or (packet in _INDEXING and _by_mask(args[1])):
            self._found.note(str(packet))
        return func(*args, **(kwargs or {}))


class _Functions(TorchFunctionMode):
    def __init__(self, found: HostSyncs) -> None:
        super().__init__()
        self._found = found

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        caller = sys._getframe(1).f_code.co_filename
        # torch's own optimizers ask for the device that a tensor is on
        copies = func is Tensor.to and not caller.startswith(_TORCH)
        if func in _FUNCTIONS or (copies and _waits(args[1:], kwargs or {})):
            self._found.note(resolve_name(func) or str(func))
        return func(*args, **(kwargs or {}))


def _waits(args: Any, kwargs: Any) -> bool:
    """Whether a tensor is brought to a device by a copy that is waited for."""
    places = [one for one in (*args, kwargs.get("device")) if isinstance(one, torch.device | str)]
    return bool(places) and not kwargs.get("non_blocking", False)


def _by_mask(indices: Any) -> bool:
    return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices)


def _caller() -> str:
    """The line of Python that did it, in whichever package but torch's."""
    own = {__file__}
    frame = sys._getframe(1)
    while frame.f_back is not None:
        file = frame.f_code.co_filename
        if file not in own and not file.startswith(_TORCH):
            break
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
