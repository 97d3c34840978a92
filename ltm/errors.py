"""What is wrong with an argument, as data. Imports nothing of ours, and no torch."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_OPTIONS = "options."
_LONGEST_QUOTE = 60
_LONGEST_LINE = 1200


def quoted(value: object) -> str:
    """A value as Python writes it: on one line, control characters escaped, and not too long."""
    return shortened(repr(value))


def named(name: str) -> str:
    """A name as it is, where it is short and printable; else `quoted`."""
    return name if name.isprintable() and len(name) <= _LONGEST_QUOTE else quoted(name)


def shortened(text: str, most: int = _LONGEST_QUOTE) -> str:
    """Text of at most ``most`` characters, with dots for the rest."""
    return text if len(text) <= most else f"{text[:most]}..."


def printable(line: str) -> str:
    """A line that a terminal may show: control characters escaped, and the middle left out of what
    is longer than any sentence."""
    if not line.isprintable():
        line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
    if len(line) > _LONGEST_LINE:
        line = f"{line[: _LONGEST_LINE * 3 // 4]} ... {line[-_LONGEST_LINE // 4 :]}"
    return line


def first_line(error: BaseException) -> str:
    """The first line of what an error says; its class where it says nothing."""
    return (str(error) or type(error).__name__).splitlines()[0]


class FieldError(ValueError):
    """An argument that is not possible: its name, its value, and what is allowed in its place.

    field: the argument's name, such as "compression_ratio"; "options.rank" for the option `rank`
        of a method.
    value: what was given.
    allowed: what is allowed, in words; the choices, where it is left empty.
    problem: what is wrong with the value, in words that follow the field's name, where "is <value>"
        does not say it.
    choices: all names that are allowed, where they are few enough to list.
    similar: names among which the nearest right spelling is looked for; the choices when omitted.

    The sentence is made by `str()` alone:

    >>> str(FieldError("compression_ratio", 1.5, "a number in (0, 1]"))
    'compression_ratio is 1.5, allowed is a number in (0, 1]'
    >>> str(FieldError("method", "ltn", choices=("ltm", "none")))
    "method is 'ltn', allowed are ltm, none: did you mean 'ltm'?"
    """

    def __init__(
        self,
        field: str,
        value: object,
        allowed: str = "",
        problem: str = "",
        choices: Sequence[str] = (),
        similar: Sequence[str] = (),
    ) -> None:
        # all of them positional, so that an exception is pickled as Python pickles exceptions
        super().__init__(field, value, allowed, problem, tuple(choices), tuple(similar))
        self.field = field
        self.value = value
        self.choices = tuple(choices)
        self.allowed = allowed or ", ".join(self.choices)
        self.problem = problem
        self.nearest = _nearest(value, tuple(similar) or self.choices)

    def __str__(self) -> str:
        return self.sentence(self.subject)

    def sentence(self, subject: str) -> str:
        """What is wrong, of a field that the reader knows by the name of `subject`."""
        problem = self.problem or f"is {quoted(self.value)}"
        verb = "are" if self.choices else "is"
        allowed = f", allowed {verb} {self.allowed}" if self.allowed else ""
        hint = f": did you mean {self.nearest!r}?" if self.nearest else ""
        return printable(f"{subject} {problem}{allowed}{hint}")

    @property
    def subject(self) -> str:
        """The field as a sentence names it."""
        if self.field.startswith(_OPTIONS):
            return f"option {self.field.removeprefix(_OPTIONS)!r}"
        return self.field


class PluginError(ValueError):
    """An entry point of an installed package that cannot be used.

    package: the distribution that has it. entry_point: as it stands there, "name = module:object".
    reason: what is wrong with it.
    """

    def __init__(self, package: str, group: str, entry_point: str, reason: str) -> None:
        super().__init__(package, group, entry_point, reason)
        self.package = package
        self.group = group
        self.entry_point = entry_point
        self.reason = reason

    def __str__(self) -> str:
        where = f"entry point {self.entry_point!r} of {self.group}"
        return f"package {self.package!r} {self.reason}: {where}"


def _nearest(value: object, names: Sequence[str]) -> str | None:
    """The most similar of the names; None where the value is one of them, or like none."""
    if not isinstance(value, str) or value in names:
        return None
    return next(iter(get_close_matches(value, names, n=1)), None)
