"""What a method is, and the registry of methods."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from difflib import get_close_matches
from inspect import signature
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ltm.methods._hooks import Hooks
from ltm.methods._structure import Structure

if TYPE_CHECKING:
    from ltm.merge import Merge
    from ltm.plan import Place, Site

Spread = Literal["once", "even", "decreasing", "quarters"]


class Method(Hooks):
    """Decides, at every site, how tokens merge. The backbone decides where, and what must hold.

    A method sees tokens and a `Site` and returns a `Merge`; it never sees the backbone. When
    `site.kept` is a grid, slot r * columns + c must stand for row r and column c of it.

    needs_keys: the backbone passes the keys of the attention before the site.
    needs_received: the backbone passes the attention that each token received there.
    keeps_grid: tokens must lie on a grid after a merge, whatever the backbone needs.
    proportional: attention after a merge adds log(size) to its logits (ToMe, arXiv 2210.09461,
        section 3), where the backbone has softmax attention over tokens.
    spread: a compression ratio is spent "once", at the backbone's default sites, or over all
        sites, see `ltm.plan.lost_by_place`, so that the mean kept fraction is the ratio.
    removes: how many tokens merge at each place, when no ratio, plan or budget is given.

    learns_mass: in training, sizes of tokens carry a gradient, and where no grid has to stay all
        tokens do: those that would leave lose their mass (`ltm.merge.Soft`).
    """

    needs_keys: bool = False
    needs_received: bool = False
    keeps_grid: bool = False
    proportional: bool = True
    spread: Spread = "once"
    removes: Sequence[int] | None = None
    learns_mass: bool = False

    @abstractmethod
    def forward(
        self,
        tokens: Tensor,
        site: Site,
        mass: Tensor | None = None,
        keys: Tensor | None = None,
        received: Tensor | None = None,
    ) -> Merge:
        """Merge tokens [B, N, D] of a site into `site.slots` slots.

        mass: [B, N], how many image tokens each token stands for; None for one each.
        keys: [B, N, d], mean over heads, for a method that `needs_keys`.
        received: [B, N], mean over heads and queries of the attention to each token, for a method
            that `needs_received`. Keys and received are None where the backbone has none.
        """


def full_precision(x: Tensor) -> AbstractContextManager[None]:
    """No autocast for what is computed from x, wherever x is."""
    if x.device.type == "meta":  # counting runs there, and autocast does not know it
        return nullcontext()
    off: AbstractContextManager[None] = torch.autocast(x.device.type, enabled=False)
    return off


MethodFactory = Callable[..., Hooks]
_METHODS: dict[str, MethodFactory] = {}


def register_method(name: str) -> Callable[[MethodFactory], MethodFactory]:
    """Register a callable `(places, **options) -> Method`, or a class of `Structure`.

    places: where it may merge, by name, in the order of the forward pass.
    """

    def register(factory: MethodFactory) -> MethodFactory:
        assert name not in _METHODS, f"method {name} is registered twice"
        _METHODS[name] = factory
        return factory

    return register


def list_methods() -> list[str]:
    """Names for `create_model(method=...)`; "none" is the base model."""
    return ["none", *sorted(_METHODS)]


def removes_structure(name: str) -> bool:
    """Whether a method removes heads and units, and not tokens."""
    factory = _METHODS.get(name)
    return isinstance(factory, type) and issubclass(factory, Structure)


def list_token_methods() -> list[str]:
    """Names of the methods that merge or drop tokens."""
    return [name for name in sorted(_METHODS) if not removes_structure(name)]


def check_method(name: str) -> None:
    """ValueError with the nearest name when there is no such method."""
    if name not in list_methods():
        near = get_close_matches(str(name), list_methods(), n=1)
        hint = f": did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"method is {name!r}, allowed are {', '.join(list_methods())}{hint}")


def list_options(name: str) -> list[str]:
    """The options that a method takes."""
    if name == "none":
        return []
    return [key for key in signature(_METHODS[name]).parameters if key != "places"]


def build_method(name: str, places: Mapping[str, Place], options: Mapping[str, object]) -> Any:
    """The method of that name. ValueError for a name or an option that it does not have."""
    check_method(name)
    allowed = list_options(name)
    for option in options:
        if option not in allowed:
            near = get_close_matches(option, allowed, n=1)
            hint = f": did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"option {option!r} is not one of method {name!r}, "
                f"which takes {', '.join(allowed) or 'none'}{hint}"
            )
    return _METHODS[name](places, **options)
