"""Checks of the options of methods: each returns the option, or says what is wrong with it."""

from __future__ import annotations

import math

from ltm.errors import FieldError


def check_number(
    option: str,
    value: object,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: float = -math.inf,
) -> float:
    """A number in [low, high], and larger than `above`. FieldError for anything else."""
    number = math.nan if isinstance(value, bool) or not isinstance(value, int | float) else value
    if low <= number <= high and number > above:
        return float(number)
    raise FieldError(f"options.{option}", value, _range(low, high, above))


def check_whole(option: str, value: object) -> int:
    """A whole number from 1. FieldError for anything else."""
    if type(value) is not int or value < 1:
        raise FieldError(f"options.{option}", value, "a whole number from 1")
    return value


def check_switch(option: str, value: object) -> bool:
    """True or False. FieldError for anything else."""
    if not isinstance(value, bool):
        raise FieldError(f"options.{option}", value, "true or false")
    return value


def _range(low: float, high: float, above: float) -> str:
    if above > low:
        return f"a number above {above:g}"
    if low == -math.inf:
        return "a number"
    return f"a number from {low:g}" + (f" to {high:g}" if high < math.inf else "")
