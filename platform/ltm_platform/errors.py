"""Errors that a user can correct, and the spelling help that goes with them."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from ltm.errors import printable, shortened

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from pydantic import ValidationError


_MOST_LINES = 20
_LONGEST_TYPED = 100


def readable(message: str) -> str:
    """A message of sentences, one a line, in bounds: what it quotes may be anything, from anywhere.

    Control characters are escaped, and no line and no list of lines is longer than one reads.
    """
    lines = message.split("\n")
    rest = len(lines) - _MOST_LINES
    if rest > 1:
        lines[_MOST_LINES:] = [f"... and {rest} more"]
    return "\n".join(map(printable, lines))


def first_invalid(error: ValidationError) -> tuple[str, str]:
    """The first thing that pydantic refuses: its field, dotted, or "" for the whole; and why."""
    first = error.errors(include_url=False, include_input=False)[0]
    return ".".join(map(str, first["loc"])), first["msg"]


def typed(text: str) -> str:
    """What a user typed, as the place of a mistake: on one line and not too long."""
    shown = shortened(text, _LONGEST_TYPED)
    return shown if text.isprintable() else repr(shown)


class UserError(ValueError):
    """A mistake of the user's, or something missing. The message is full sentences, one a line; the
    command line exits with 2. It is made `readable`.

    fields: the fields of a job that it is about, dotted, each with the value that is refused; empty
        where no field is to blame.
    """

    def __init__(self, message: str = "", fields: Mapping[str, object] | None = None) -> None:
        # All arguments, so that it is pickled whole: it crosses the borders of processes.
        super().__init__(readable(message), dict(fields or {}))
        self.fields: dict[str, object] = dict(fields or {})

    def __str__(self) -> str:
        return str(self.args[0])


def closest(value: str, allowed: Iterable[str]) -> str | None:
    """The one of ``allowed`` that ``value`` most likely stands for, or None if nothing is near."""
    return next(iter(get_close_matches(value, list(allowed), n=1, cutoff=0.6)), None)


def nearest(value: str, allowed: Iterable[str]) -> str:
    """The nearest right spelling as a ready phrase, ``; did you mean 'epochs'?``, or nothing."""
    match = closest(value, allowed)
    return f"; did you mean {match!r}?" if match else ""


class ReadError(UserError):
    """Something could not be read now, such as of a store far away: a later try may succeed."""


class RunError(RuntimeError):
    """A run that started and broke; the message says which rank and why."""

    log: Path | None = None
    """What was printed meanwhile, if that is kept."""
