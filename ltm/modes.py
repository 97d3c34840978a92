"""Changes of a network that end with a block, or with an error in it."""

from __future__ import annotations

from contextlib import contextmanager
from copy import copy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In the block the whole network is in evaluation mode.

    Every module gets back the mode that it had: that of a frozen batch norm is not the network's.
    """
    was = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, training in was.items():
            module.training = training


@contextmanager
def unchanged_on_error(model: nn.Module) -> Iterator[None]:
    """Attributes, parameters, buffers and classes that the block replaces come back when it raises.

    So do entries of their lists and dicts; tensors that are written into do not.
    """
    own = [holder for module in model.modules() for holder in _holders(vars(module))]
    was = [(holder, copy(holder)) for holder in own]
    classes = [(module, type(module)) for module in model.modules()]
    try:
        yield
    except BaseException:
        for holder, before in was:
            holder.clear()
            holder.update(before) if isinstance(holder, dict) else holder.extend(before)
        for module, cls in classes:
            module.__class__ = cls
        raise


def _holders(value: Any) -> Iterator[Any]:
    """A dict or list, and those that lie in it."""
    if isinstance(value, dict | list):
        yield value
        for item in value.values() if isinstance(value, dict) else value:
            yield from _holders(item)
