"""The console for results."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDTH_OF_FILES = 1000
"""Where nobody looks, lines are kept whole for scripts that read them."""


def results() -> Console:
    """Standard output: as wide as the terminal, or without line breaks elsewhere."""
    from rich.console import Console  # which --help does without

    width = None if sys.stdout.isatty() else WIDTH_OF_FILES
    return Console(width=width, markup=False, highlight=False)


def plain_table(*head: str, texts: int = 1, **options: Any) -> Table:
    """A table without lines; its first ``texts`` columns hold text, the others figures.

    ``options``: of rich's `Table`, such as ``title``.
    """
    from rich.table import Table

    table = Table(*head, title_justify="left", box=None, pad_edge=False, **options)
    for column in table.columns[texts:]:
        column.justify = "right"
    return table


def duration(seconds: float) -> str:
    """In the largest unit of which there are two, e.g. ``90 min``."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def cell(value: float | str | None, shape: str = "{:.5g}") -> str:
    """A table's cell: numbers in their ``shape``, nothing for what is not there."""
    if value is None or isinstance(value, str):
        return value or ""
    return shape.format(value)
