"""Turn a module of timm into one of ours that keeps its weights and their names."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def adopt(cls: type[ModuleT], module: nn.Module) -> ModuleT:
    """A `cls` that owns all that `module`, of a parent class, owned: children, parameters, names.

    timm builds and loads a network, a subclass of ours takes it over; keys of the state dict stay.
    """
    assert issubclass(cls, type(module)), f"{cls.__name__} cannot adopt {type(module).__name__}"
    new = cls.__new__(cls)
    nn.Module.__init__(new)
    new.__dict__.update(module.__dict__)
    return new
