"""Which of many like cases `make test` runs; `make test-all` runs the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable


def fast_only(values: Iterable[Any], fast: Collection[Any]) -> list[Any]:
    """Parameters of one argument, all marked slow but the ``fast`` ones."""
    return [one if one in fast else pytest.param(one, marks=pytest.mark.slow) for one in values]
