"""pydantic's errors in plain words: one sentence each, with place, value and what is allowed.

What a field allows is read from the JSON schema of the model, so that a sentence can never disagree
with the check.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ltm.errors import named, quoted
from ltm_platform.errors import nearest

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from ltm_platform.job.layer import Origins

Schema = Mapping[str, Any]
Fields = tuple[str, ...]
"""Dotted names of the fields that a sentence is about."""
_BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "greater than",
    "maximum": "at most",
    "exclusiveMaximum": "less than",
}


class Explainer:
    """Explains the errors of one set of values against one schema."""

    def __init__(self, schema: Schema, values: Mapping[str, Any], origins: Origins) -> None:
        self._schema = schema
        self._values = values
        self._origins = origins

    def sentences(self, errors: Iterable[ErrorDetails]) -> dict[Fields, str]:
        """One sentence a field, however many ways pydantic tried to read it."""
        found: dict[Fields, str] = {}
        for error in errors:
            for fields, sentence in self._explain(error):
                found.setdefault(fields, sentence)
        return found

    def _explain(self, error: ErrorDetails) -> list[tuple[Fields, str]]:
        path, schema = self._field(error["loc"])
        context = error.get("ctx", {})
        if error["type"] == "extra_forbidden":
            unknown = (*path, str(error["loc"][-1]))
            return [((".".join(unknown),), self._unknown(unknown, schema))]
        if error["type"] == "conflict":
            keys = context["keys"]
            return [(tuple(keys), self._origins.prefix(*keys) + context["sentence"])]
        if error["type"] == "exclusive":
            return [(tuple(context["keys"]), self._exclusive(context["keys"]))]
        present, value = self._value(path)
        if not present:
            required = self._required(path, schema)
            return [((".".join(missing),), self._missing(missing)) for missing in required]
        key = ".".join(path) or "the job"
        if error["type"] == "value_error":
            text = f"{key} is {show(value)}, but {context['error']}"
        else:
            text = f"{key} is {self._shown(value, schema)}, but must be {self._must(value, schema)}"
        return [((key,) if path else (), self._origins.prefix(key) + text)]

    def _exclusive(self, clearing: Mapping[str, str]) -> str:
        """One of the fields is to blame, an override if there is one; the others can be cleared."""
        last, *others = sorted(clearing, key=lambda key: not self._origins.is_override(key))
        besides = [
            f"{key} is {show(self._value(tuple(key.split('.')))[1])} ({self._origins.where(key)})"
            for key in others
        ]
        remedy = " ".join(f"--set {key}={clearing[key]}" for key in others)
        value = show(self._value(tuple(last.split(".")))[1])
        return (
            f"{self._origins.prefix(last)}{last} is {value}, but {' and '.join(besides)}, "
            f"and a job has only one of them: {remedy} clears the other"
        )

    def _field(self, location: tuple[int | str, ...]) -> tuple[tuple[str, ...], Schema]:
        """The deepest field in the location; pydantic adds list indices and union members."""
        path: list[str] = []
        schema = self._schema
        for part in location:
            fields = schema.get("properties", {})
            if part not in fields:
                break
            path.append(str(part))
            schema = self._resolve(fields[part])
        return tuple(path), schema

    def _resolve(self, schema: Schema) -> Schema:
        reference = schema.get("$ref")
        if reference is None:
            return schema
        target: Schema = self._schema["$defs"][reference.rpartition("/")[2]]
        return target

    def _value(self, path: tuple[str, ...]) -> tuple[bool, Any]:
        node: Any = self._values
        for part in path:
            if not isinstance(node, Mapping) or part not in node:
                return False, None
            node = node[part]
        return True, node

    def _required(self, path: tuple[str, ...], schema: Schema) -> list[tuple[str, ...]]:
        """A missing section stands for the fields in it that have no default."""
        return [(*path, name) for name in schema.get("required", [])] or [path]

    def _missing(self, path: tuple[str, ...]) -> str:
        _, section = self._field(path[:-1])
        text = " ".join(section["properties"][path[-1]]["description"].split())
        meaning = text[0].lower() + text[1:].rstrip(".")
        key = ".".join(path)
        return f"{self._origins.prefix(key)}{key} is missing, but every job needs it: {meaning}"

    def _unknown(self, path: tuple[str, ...], schema: Schema) -> str:
        *outer, name = path
        section = ".".join(outer) or "the job"
        key = ".".join([*outer, name])
        fields = sorted(schema["properties"])
        if not outer:
            fields = sorted([*fields, "extends"])
        namesakes = [field for field in self._all_fields() if field.rpartition(".")[2] == name]
        hint = f"; did you mean {namesakes[0]!r}?" if namesakes else nearest(name, fields)
        return (
            f"{self._origins.prefix(key)}{named(key)} is not a field of {section}{hint} "
            f"(allowed: {', '.join(fields)})"
        )

    def _all_fields(self, path: tuple[str, ...] = ()) -> list[str]:
        names = []
        for name in self._field(path)[1].get("properties", {}):
            names += [".".join((*path, name)), *self._all_fields((*path, name))]
        return names

    def _shown(self, value: Any, schema: Schema) -> str:
        expects_text = any(option.get("type") == "string" for option in _options(schema) if option)
        if isinstance(value, str) and value and not expects_text:
            return f"{show(value)} (text)"
        return show(value)

    def _must(self, value: Any, schema: Schema) -> str:
        options = [option for option in _options(schema) if option.get("type") != "null"]
        only = options[0] if len(options) == 1 else None
        if only and _is_number(value) and _accepts_number(only, value):
            return _bounds(only)
        phrase = " or ".join(_noun(option, value) for option in options)
        if len(options) < len(_options(schema)):
            phrase += ", or null"
        if isinstance(value, str):
            phrase += nearest(value, [word for option in options for word in _words(option)])
        elif only and only.get("type") == "string" and _is_number(value):
            phrase += "; put it in quotes"
        return phrase


def show(value: Any) -> str:
    """The value as a user wrote it, on one line and not too long."""
    if value is None:
        return "empty (null)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "a mapping" if value else "an empty mapping"
    return quoted(value)


def _options(schema: Schema) -> list[Schema]:
    return list(schema.get("anyOf", [schema]))


def _words(schema: Schema) -> list[str]:
    """The words that the field may hold, where it may hold nothing else."""
    return list(schema.get("enum", [schema["const"]] if "const" in schema else []))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _accepts_number(schema: Schema, value: float) -> bool:
    """Whether only the size of the number can be wrong, not its kind."""
    if schema.get("type") == "integer":
        return isinstance(value, int)
    return schema.get("type") == "number" and (isinstance(value, int) or math.isfinite(value))


def _bounds(schema: Schema) -> str:
    if "minimum" in schema and "maximum" in schema:
        return f"from {schema['minimum']:.12g} to {schema['maximum']:.12g}"
    return " and ".join(
        f"{words} {schema[key]:.12g}" for key, words in _BOUNDS.items() if key in schema
    )


def _noun(schema: Schema, value: Any) -> str:
    if words := _words(schema):
        return " or ".join(map(repr, words))
    kind = schema.get("type")
    if kind in ("integer", "number"):
        finite = isinstance(value, float) and not math.isfinite(value)
        number = "finite number" if finite else "number"
        noun = "a whole number" if kind == "integer" else f"a {number}"
        return f"{noun} {_bounds(schema)}".rstrip()
    if kind == "array":
        if "prefixItems" not in schema:
            return f"a list of items, each {_noun(schema['items'], None)}"
        items = schema["prefixItems"]
        return f"a list of {len(items)} items, each {_noun(items[0], None)}"
    if kind == "object":
        fields = ", ".join(sorted(schema.get("properties", {})))
        return f"a section of its own (allowed: {fields})" if fields else "a mapping"
    if kind == "string":
        return "text that is not empty" if value == "" else "text"
    return "true or false"
