"""Methods and backbones of other packages, which name them in entry points.

    [project.entry-points."ltm.methods"]      # the name of the method, and its class
    halve = "my_package.halve:Halve"

    [project.entry-points."ltm.backbones"]    # any name, and the module that registers the family
    cait = "my_package.cait"

Names are read from the metadata of installed packages; a package is imported when what it has is
looked up. PluginError names the package whose entry point clashes with another one, or cannot be
loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltm.errors import PluginError

if TYPE_CHECKING:
    from collections.abc import Iterable

GROUPS = ("ltm.methods", "ltm.backbones")


@dataclass(frozen=True)
class Plugin:
    """An entry point: its group and name, and the distribution and top-level package it is of."""

    group: str
    name: str
    distribution: str
    version: str
    package: str


def plugins(groups: Iterable[str] = GROUPS) -> list[Plugin]:
    """All entry points of these groups. Nothing of them is imported."""
    return [find(group, name) for group in groups for name in names(group)]


def find(group: str, name: str) -> Plugin:
    """The entry point of that name, which is there."""
    point = _points(group)[name]
    return Plugin(group, name, *_distribution(point), point.module.partition(".")[0])


def packages(groups: Iterable[str] = GROUPS) -> list[str]:
    """Top-level packages that have something in these groups.

    They have to be sent along to another machine that runs the network.
    """
    return sorted({plugin.package for plugin in plugins(groups)})


def code_of(package: str) -> Path:
    """The folder of an importable package, or the file of one that is a single module."""
    spec = find_spec(package)
    assert spec, f"{package} cannot be imported"
    if spec.submodule_search_locations:
        return Path(spec.submodule_search_locations[0])
    assert spec.origin
    return Path(spec.origin)


def names(group: str) -> list[str]:
    """The names in a group. PluginError when two packages have the same one."""
    return sorted(_points(group))


def load(group: str, name: str) -> Any:
    """What an entry point names, imported. PluginError when that fails."""
    point = _points(group)[name]
    try:
        return point.load()
    except Exception as error:
        reason = f"cannot be loaded, {type(error).__name__}: {error}"
        raise broken(group, name, reason) from error


def load_all(group: str) -> None:
    """Import all of a group, each once."""
    for name in names(group):
        load(group, name)


def broken(group: str, name: str, reason: str) -> PluginError:
    """The error that names the package that is to blame."""
    return _error(_points(group)[name], reason)


def _error(point: EntryPoint, reason: str) -> PluginError:
    written = f"{point.name} = {point.value}"
    return PluginError(_distribution(point)[0], point.group, written, reason)


@cache
def _points(group: str) -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=group):
        other = found.setdefault(point.name, point)
        if other.value != point.value:
            raise _error(point, f"has what package {_distribution(other)[0]!r} has, too")
    return found


def _distribution(point: EntryPoint) -> tuple[str, str]:
    return (point.dist.name, point.dist.version) if point.dist else ("unknown", "")
