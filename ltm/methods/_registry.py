"""Methods by name: ours, and those of other packages (entry points of the group `ltm.methods`)."""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any

from ltm import plugins
from ltm.errors import FieldError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ltm.interfaces import Grids, Hooks, Reduces, SiteKind

    MethodFactory = Callable[..., Hooks]

_GROUP = "ltm.methods"
_OF_ALL = ("r", "schedule", "pool_by_size")  # options that the model takes, whatever the method
_METHODS: dict[str, MethodFactory] = {}


def register_method(name: str) -> Callable[[MethodFactory], MethodFactory]:
    """Register a method: a class, or any callable `(sites, **options) -> Method`.

    sites: the kind of every site where it may merge, by name, in the order of the forward pass.
    A method of structure takes none: {}.

    Another package names its class in an entry point, and needs no decorator:

        [project.entry-points."ltm.methods"]
        halve = "my_package:Halve"
    """

    def register(factory: MethodFactory) -> MethodFactory:
        if _METHODS.get(name, factory) is not factory:
            raise FieldError("name", name, "a name that no other method has")
        _METHODS[name] = factory
        return factory

    return register


def list_methods() -> list[str]:
    """Names for `create_model(method=...)`; "none" is the base model."""
    named = plugins.names(_GROUP)
    for name in _METHODS.keys() & {*named}:
        package = _METHODS[name].__module__.partition(".")[0]
        if package != plugins.find(_GROUP, name).package:
            raise plugins.broken(_GROUP, name, f"has a method {name!r}, which {package} has, too")
    return ["none", *sorted({*_METHODS, *named})]


def list_token_methods() -> list[str]:
    """Names of the methods that merge or drop tokens."""
    return [name for name in list_methods()[1:] if reduces(name) == "tokens"]


def reduces(name: str) -> Reduces:
    """What a method reduces. FieldError when there is no such method."""
    kind: Reduces = getattr(_factory(name), "reduces", "tokens")
    return kind


def grids(name: str) -> Grids:
    """What a method does about a grid that has to stay."""
    kind: Grids = getattr(_factory(name), "grids", "ours")
    return kind


def check_method(name: str) -> None:
    """FieldError with the nearest name when there is no such method."""
    if name not in list_methods():
        raise FieldError("method", name, choices=list_methods())


def list_options(name: str) -> list[str]:
    """The options that a method takes."""
    if name == "none":
        return []
    own = list(signature(_factory(name)).parameters)[1:]
    return [*own, *_OF_ALL] if reduces(name) == "tokens" else own


def untrained_options(name: str) -> dict[str, Any]:
    """The options, in place of the defaults, that suit a network which was trained without merging
    and on which the method is put as it is."""
    of_head = {"pool_by_size": None} if reduces(name) == "tokens" else {}
    return of_head | dict(getattr(_factory(name), "untrained_options", {}))


def build_method(name: str, sites: Mapping[str, SiteKind], options: Mapping[str, object]) -> Any:
    """The method of that name. FieldError for a name or an option that it does not have."""
    check_options(name, options)
    method = _factory(name)(sites, **options)
    method.name = name
    return method


def check_options(name: str, options: Iterable[str]) -> None:
    """FieldError for a name, or for an option that the method of that name does not have."""
    check_method(name)
    allowed = list_options(name)
    for option in options:
        if option not in allowed:
            raise FieldError(
                f"options.{option}",
                option,
                ", ".join(allowed) or "none",
                f"is no option of method {name!r}",
                similar=allowed,
            )


def _factory(name: str) -> MethodFactory:
    check_method(name)
    if name not in _METHODS:
        factory = plugins.load(_GROUP, name)
        if not callable(factory):
            raise plugins.broken(_GROUP, name, f"is {factory!r}, which is no method")
        register_method(name)(factory)
    return _METHODS[name]
