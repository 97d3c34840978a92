"""Values together with where each was given: what one file or one override adds to a job."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_OVERRIDE = "--set "


@dataclass
class Layer:
    """Nested values and, for every dotted key, its origin such as ``jobs/x.yaml:4``."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    backbones: dict[str, str | None] = field(default_factory=dict)
    """For every dotted key, the backbone that its file is for; None where a user typed the key."""
    problems: list[str] = field(default_factory=list)
    """Sentences about what could not be read; reported together with the errors found later."""
    shortened: dict[str, float] = field(default_factory=dict)
    """For a dotted key whose value was cut to fit another, what was given."""

    def get(self, key: str) -> Any:
        """The value at a dotted key; None where nothing is."""
        node: Any = self.values
        for part in key.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        return node

    def under(self, top: Layer) -> Layer:
        """This layer with ``top`` laid over it: sections merge, everything else is replaced."""
        return Layer(
            _overlay(self.values, top.values),
            self.origins | top.origins,
            self.backbones | dict.fromkeys(top.origins) | top.backbones,
            self.problems + top.problems,
            {key: was for key, was in self.shortened.items() if key not in top.origins},
        )

    def is_override(self, key: str) -> bool:
        """Whether it was typed on the command line."""
        return self.origins.get(key, "").startswith(_OVERRIDE)

    def origins_from(self, source: str) -> Origins:
        """Where the values of a finished job were given; ``source``: as in `Origins`."""
        return Origins(source, self.origins, self.backbones, self.shortened)


def _overlay(low: dict[str, Any], high: dict[str, Any]) -> dict[str, Any]:
    merged = dict(low)
    for key, value in high.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            value = _overlay(old, value)
        merged[key] = value
    return merged


@dataclass(frozen=True)
class Origins:
    """Where a finished job's values were given."""

    source: str = ""
    """The job file, or what else the job was made from."""
    of_key: Mapping[str, str] = field(default_factory=dict)
    backbones: Mapping[str, str | None] = field(default_factory=dict)
    shortened: Mapping[str, float] = field(default_factory=dict)
    """Both as in `Layer`."""

    def where(self, key: str) -> str:
        return self.of_key.get(key, "default")

    def is_override(self, key: str) -> bool:
        """Whether it was typed on the command line."""
        return self.where(key).startswith(_OVERRIDE)

    def prefix(self, *keys: str) -> str:
        """The place to correct, as a sentence's beginning: where one of ``keys`` was given.

        What the user typed last, an override, is the likeliest culprit; a key that is not given
        belongs to the section around it, or to the file.
        """
        given = [self.of_key[key] for key in keys if key in self.of_key]
        given.sort(key=lambda origin: not origin.startswith(_OVERRIDE))
        place = given[0] if given else self._around(keys[0])
        return f"{place}: " if place else ""

    def _around(self, key: str) -> str:
        while "." in key:
            key = key.rpartition(".")[0]
            if key in self.of_key:
                return self.of_key[key]
        return self.source
