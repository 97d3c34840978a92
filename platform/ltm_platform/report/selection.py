"""Which runs, and in which order: conditions on a run's state, its job and its metrics.

A key is one of `ATTRIBUTES`, a metric such as ``val/top1`` or a field of the job such as
``model.method``.
"""

from __future__ import annotations

import math
import operator
import re
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from ltm_platform.errors import UserError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ltm_platform.tracking import RunRecord

Value = str | float

_CONDITION = re.compile(r"\s*([^<>=!\s]+)\s*(>=|<=|!=|==|=|>|<)\s*(.*?)\s*")
_ORDER: dict[str, Callable[[Value, Value], bool]] = {
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
}
# How MLflow keeps what YAML writes otherwise.
_WORDS = {"true": "True", "false": "False", "null": "None"}

ATTRIBUTES: dict[str, Callable[[RunRecord], Value | None]] = {
    "name": lambda run: run.name,
    "status": lambda run: run.status,
    "experiment": lambda run: run.experiment,
    "job": lambda run: run.params.get("name"),
    "started": lambda run: shown_time(run.started_ms),
    "error": lambda run: run.error,
}


@dataclass(frozen=True, slots=True)
class Condition:
    """``key operator value``: true for runs that have the key and whose value fits."""

    key: str
    operator: str
    value: Value

    @classmethod
    def parse(cls, text: str) -> Condition:
        """``val/top1>90``, ``model.method=ltm``; in text, ``*`` stands for anything.

        Raises:
            UserError: it is none, or it orders by what is no number.
        """
        found = _CONDITION.fullmatch(text)
        if not found or not found[3]:
            raise UserError(
                f"--where {text!r} is no condition: write KEY, one of =, !=, >, <, >=, <= and a "
                f"value, e.g. 'val/top1>90' or model.method=ltm"
            )
        key, sign, raw = found.groups()
        value = _number(raw)
        if value is None and sign in _ORDER and key != "started":
            raise UserError(f"--where {text!r}: {sign} needs a number, but {raw!r} is none")
        return cls(key, "=" if sign == "==" else sign, raw if value is None else value)

    def holds(self, run: RunRecord) -> bool:
        value = value_of(run, self.key)
        if value is None:
            return False
        if self.operator in _ORDER:
            if self.key == "started":
                return _ORDER[self.operator](str(value), str(self.value))
            number = _number(value)
            return number is not None and _ORDER[self.operator](number, self.value)
        return self._equals(value) == (self.operator == "=")

    def _equals(self, value: Value) -> bool:
        if isinstance(self.value, float):
            return _number(value) == self.value
        return fnmatchcase(str(value), _WORDS.get(self.value, self.value))


def value_of(run: RunRecord, key: str) -> Value | None:
    """A run's attribute, its last value of a metric, or a field of its job."""
    if key in ATTRIBUTES:
        return ATTRIBUTES[key](run)
    return run.metrics.get(key, run.params.get(key))


def select(
    runs: Sequence[RunRecord],
    conditions: Iterable[Condition] = (),
    *,
    sort: str | None = None,
    limit: int | None = None,
) -> list[RunRecord]:
    """The runs for which every condition holds.

    sort: a key; with ``-`` before it the largest come first. Runs without it come last, and runs
    that are equal stay in their order. limit: at most so many.

    Raises:
        UserError: no run has such a key; the nearest is given.
    """
    conditions = list(conditions)
    sort_key = sort.removeprefix("-") if sort is not None else None
    known = {*ATTRIBUTES, *(key for run in runs for key in (*run.metrics, *run.params))}
    for key in [*(condition.key for condition in conditions), sort_key]:
        if runs and key is not None and key not in known:
            raise UserError(
                f"no run has {key!r}{nearest(key, known)} "
                f"(a key is a metric such as val/top1, a field of the job such as model.method, "
                f"or one of {', '.join(ATTRIBUTES)})"
            )
    chosen = [run for run in runs if all(condition.holds(run) for condition in conditions)]
    if sort is not None and sort_key is not None:
        with_key = [run for run in chosen if _rank(run, sort_key)]
        without = [run for run in chosen if not _rank(run, sort_key)]
        descending = sort.startswith("-")
        with_key.sort(key=lambda run: _rank(run, sort_key), reverse=descending)
        chosen = with_key + without
    return chosen[:limit]


def _rank(run: RunRecord, key: str) -> tuple[bool, float, str] | tuple[()]:
    """Numbers by size before text by the alphabet; empty for a run without the key."""
    value = value_of(run, key)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ()
    number = _number(value)
    return (True, 0.0, str(value)) if number is None else (False, number, "")


def _number(value: Value) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return None if math.isnan(number) else number


def shown_time(milliseconds: int) -> str:
    """``2026-11-22 16:01:17``, in local time."""
    return datetime.fromtimestamp(milliseconds / 1000).strftime("%Y-%m-%d %H:%M:%S")
