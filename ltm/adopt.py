"""Turn a module of timm into one of ours that keeps its weights and their names."""

from __future__ import annotations

from typing import TypeVar, cast

from torch import nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def adopt(cls: type[ModuleT], module: nn.Module) -> ModuleT:
    """The module itself, of a parent class, as a `cls` from now on.

    timm builds and loads a network, a subclass of ours takes it over: children, parameters, hooks
    and keys of the state dict stay, and so does whatever else refers to it.
    """
    assert issubclass(cls, type(module)), f"{cls.__name__} cannot adopt {type(module).__name__}"
    module.__class__ = cls
    return cast("ModuleT", module)
