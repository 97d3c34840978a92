"""Read and write YAML: with the place of every key, by the core schema of YAML 1.2.

Scalars follow YAML 1.2's core schema, so that ``1e-3`` is a number, ``12:30`` is text and ``no`` is
text too. Duplicate keys, tags that make objects and documents that grow by aliases are refused.
"""

from __future__ import annotations

import re
import sys
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import yaml

from ltm.errors import named, quoted, shortened
from ltm_platform.errors import UserError
from ltm_platform.job.layer import Layer

if TYPE_CHECKING:
    from collections.abc import Callable

_MODULES = ("model", "plan")  # whose keys are names of modules, with dots
_MOST_NODES = 10_000
_DEEPEST = 32
_MOST_BRACKETS = 300
_BRACKETS = {"[": 1, "{": 1, "]": -1, "}": -1}
_LONGEST_PROBLEM = 120
_LONG_ESCAPE = re.compile(r"\\U([0-9a-fA-F]{8})")

_TAG = "tag:yaml.org,2002:"
_CORE_SCHEMA = {
    "null": (r"null|Null|NULL|~|", ["n", "N", "~", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]+", list("-+0123456789")),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}
_HINTS = {
    "'\\t'": "; indent with spaces, not tabs",
    "mapping values are not allowed": "; check the indentation, and quote text that holds ': '",
    "<block end>": "; check the indentation",
}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's way of forgetting YAML 1.1


class _Dumper(yaml.SafeDumper):
    """Quotes text that either YAML version would read as something else."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's signature
        return True


for _name, (_pattern, _first) in _CORE_SCHEMA.items():
    for _cls in (_Loader, _Dumper):
        _cls.add_implicit_resolver(_TAG + _name, re.compile(f"(?:{_pattern})$"), _first)


def dump_yaml(values: dict[str, Any]) -> str:
    """Block-style YAML in the given order; `parse_yaml` gives exactly ``values`` back."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def parse_yaml(
    text: str, place: Callable[[int], str], at: tuple[str, ...] = (), *, quote: bool = True
) -> tuple[Any, Layer]:
    """The document and, as a layer, the origin of its keys; ``place`` turns a line into an origin.

    ``at`` is where in a job the document belongs; keys in the layer begin there. Without ``quote``
    an error says where the text is wrong, and nothing that stands there.

    Raises:
        UserError: the text is not one YAML document.
    """
    if _depth(text) > _MOST_BRACKETS:  # which PyYAML would take seconds to give up on
        raise UserError(f"{place(1)}: this is nested too deeply")
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        raise UserError(_syntax_error(error, place, quote=quote)) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        problem = f"it holds the character {chr(error.character)!a}"
        raise UserError(f"{place(line)}: this is not valid YAML: {problem}") from None
    except (ValueError, OverflowError):  # PyYAML's chr() of an escape such as \UFFFFFFFF
        line = next((n for n, one in enumerate(text.split("\n"), 1) if _beyond_unicode(one)), 1)
        problem = "it has an escape of a character that does not exist"
        raise UserError(f"{place(line)}: this is not valid YAML: {problem}") from None
    except RecursionError:
        raise UserError(f"{place(1)}: this is nested too deeply") from None
    builder = _Builder(place)
    value = None if node is None else builder.build(node, at)
    values = value if isinstance(value, dict) else {}
    return value, Layer(values, builder.origins, problems=builder.problems)


def _depth(text: str) -> int:
    """How many brackets are open at once, those within quoted text included."""
    return max(accumulate(_BRACKETS.get(character, 0) for character in text), default=0)


def _beyond_unicode(line: str) -> bool:
    return any(int(code, 16) > sys.maxunicode for code in _LONG_ESCAPE.findall(line))


def _syntax_error(error: yaml.MarkedYAMLError, place: Callable[[int], str], *, quote: bool) -> str:
    problem = shortened(error.problem or "it cannot be read", _LONGEST_PROBLEM)
    # What is never closed is noticed at the end of the text; the place to correct is its beginning.
    unclosed = "end of stream" in problem or "<stream end>" in problem
    mark = error.context_mark if unclosed and error.context_mark else error.problem_mark
    where = place(mark.line + 1) if mark else place(1)
    column = f" (column {mark.column + 1})" if mark else ""
    if not quote:
        return f"{where}: this is not valid YAML{column}"
    hint = next((hint for part, hint in _HINTS.items() if part in problem), "")
    return f"{where}: this is not valid YAML: {problem}{column}{hint}"


class _Builder:
    """Turns composed nodes into plain values and notes the place of every key."""

    def __init__(self, place: Callable[[int], str]) -> None:
        self.origins: dict[str, str] = {}
        self.problems: list[str] = []
        self._place = place
        self._nodes = 0

    def build(self, node: yaml.Node, path: tuple[str, ...], depth: int = 0) -> Any:
        self._nodes += 1
        if self._nodes > _MOST_NODES or depth > _DEEPEST:
            raise UserError(f"{self._at(node)}: this is too large or too deep for a job file")
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [self.build(item, path, depth + 1) for item in node.value]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        return self._refuse_tag(node)

    def _mapping(self, node: yaml.MappingNode, path: tuple[str, ...], depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self.build(key_node, path, depth + 1)
            where = self._at(key_node)
            if not isinstance(key, str) or not key:
                self.problems.append(f"{where}: the key {quoted(key)} is not a name")
                continue
            here = (*path, key)
            if "." in key and path != _MODULES:
                self.problems.append(
                    f"{where}: the key {quoted(key)} holds a dot; "
                    f"write {named(key.partition('.')[0])}: and the rest indented below it"
                )
                continue
            value = self.build(value_node, here, depth + 1)
            if key in values:
                self.problems.append(
                    f"{where}: {named('.'.join(here))} is given twice, "
                    f"first at {self.origins['.'.join(here)]}"
                )
                continue
            values[key] = value
            self.origins[".".join(here)] = where
        return values

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        text, kind = node.value, node.tag.removeprefix(_TAG)
        if kind == "str":
            return text
        pattern = _CORE_SCHEMA.get(kind, ("(?!)", []))[0]
        if not re.fullmatch(pattern, text):
            return self._refuse_tag(node)
        if kind == "bool":
            return text.lower() == "true"
        if kind == "float":
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        return self._integer(node) if kind == "int" else None

    def _integer(self, node: yaml.ScalarNode) -> int | None:
        try:
            return int(node.value)
        except ValueError:  # more digits than Python converts
            self.problems.append(f"{self._at(node)}: this number has too many digits")
            return None

    def _refuse_tag(self, node: yaml.Node) -> None:
        tag = node.tag.replace(_TAG, "!!")
        self.problems.append(f"{self._at(node)}: the YAML tag {named(tag)} does not belong here")

    def _at(self, node: yaml.Node) -> str:
        return self._place(node.start_mark.line + 1)
