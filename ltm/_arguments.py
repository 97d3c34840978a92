"""Arguments of any kind, and what is wrong with them. Numbers may be Python's or numpy's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral, Real

from ltm.errors import FieldError, quoted


def whole(value: object) -> int | None:
    """A whole number as Python's; None for all else, booleans among it."""
    # numpy's booleans are no numbers in this sense, Python's are
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None


def number(value: object) -> float:
    """A real number as Python's; nan for all else, booleans among it."""
    return float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan


def two_numbers(value: object) -> tuple[int, int] | None:
    """(rows, columns), or one whole number for both; None for all else."""
    pair = value if isinstance(value, list | tuple) else (value, value)
    match [whole(one) for one in pair]:
        case [int() as rows, int() as columns]:
            return rows, columns
    return None


def check_image_size(value: object) -> tuple[int, int]:
    """Height and width in pixels. FieldError for what is neither a number nor two of them."""
    size = two_numbers(value)
    if size is None or min(size) < 1:
        allowed = "a whole number of pixels above 0, or two: (height, width)"
        raise FieldError("image_size", value, allowed)
    return size


def check_count(field: str, value: object, least: int = 1) -> int:
    """A whole number of `least` or more. FieldError, with the field's name, for anything else."""
    given = whole(value)
    if given is None or given < least:
        raise FieldError(field, value, f"a whole number of {least} or more")
    return given


def check_rate(field: str, value: object) -> float:
    """A number in [0, 1). FieldError, with the field's name, for anything else."""
    given = number(value)
    if not 0 <= given < 1:
        raise FieldError(field, value, "a number in [0, 1)")
    return given


def check_budget(field: str, value: object) -> float:
    """1e9 multiply-accumulates, above 0. FieldError, with the field's name, for anything else."""
    given = number(value)
    if not 0 < given < math.inf:
        raise FieldError(field, value, "a number above 0, of 1e9 multiply-accumulates")
    return given


def check_mapping(field: str, value: object, example: str) -> None:
    """FieldError for a value that is no mapping with names as keys."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise FieldError(field, value, f"a mapping such as {example}", f"is {quoted(value)}")
