"""Checks of the options of methods: each returns the option, or says what is wrong with it."""

from __future__ import annotations

import math

from ltm._arguments import number, whole
from ltm.errors import FieldError

LARGEST = 1e6
"""Beyond it a number is a slip of the keyboard."""
WIDEST = 4096
"""Of what sets the size of weights."""


def check_number(
    option: str,
    value: object,
    low: float = -LARGEST,
    high: float = LARGEST,
    *,
    above: float = -math.inf,
) -> float:
    """A number in [low, high], and larger than `above`. FieldError for anything else."""
    given = number(value)
    if low <= given <= high and given > above:
        return given
    from_low = f"above {above:g} and at most" if above > low else f"from {low:g} to"
    raise FieldError(f"options.{option}", value, f"a number {from_low} {high:g}")


def check_whole(option: str, value: object, most: int = int(LARGEST), least: int = 1) -> int:
    """A whole number from `least` to `most`. FieldError for anything else."""
    given = whole(value)
    if given is None or not least <= given <= most:
        raise FieldError(f"options.{option}", value, f"a whole number from {least} to {most}")
    return given


def check_switch(option: str, value: object) -> bool:
    """True or False. FieldError for anything else."""
    if not isinstance(value, bool):
        raise FieldError(f"options.{option}", value, "true or false")
    return value
