"""The consoles: one for results, and one for what is shown while libraries print elsewhere."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from rich.console import Console
    from rich.table import Table

NAMED = 3
"""Of the images that cannot be decoded."""
WIDTH_OF_FILES = 1000
"""Without a terminal, lines are kept whole for scripts that read them."""


def results() -> Console:
    """Standard output: as wide as the terminal, or without line breaks elsewhere."""
    from rich.console import Console  # which --help does without

    width = None if sys.stdout.isatty() else WIDTH_OF_FILES
    return Console(width=width, markup=False, highlight=False)


@contextmanager
def uncaptured() -> Iterator[Console]:
    """Standard output as it is now, also while `api` captures it."""
    from rich.console import Console

    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w") as stream:
        yield Console(file=stream, width=_width(1), highlight=False, markup=False)


def _width(descriptor: int) -> int:
    if not os.isatty(descriptor):
        return WIDTH_OF_FILES
    return os.get_terminal_size(descriptor).columns or 80


def dimmed(console: Console, *, verbose: bool) -> Callable[[str], None] | None:
    """Shows what libraries print, if that is wanted."""
    return (lambda line: console.print(line, style="dim")) if verbose else None


@contextmanager
def printing(*, verbose: bool) -> Iterator[Callable[[str], None] | None]:
    """`dimmed`, on standard output; and what takes long says so."""
    with uncaptured() as console, long_searches(console):
        yield dimmed(console, verbose=verbose)


@contextmanager
def long_searches(console: Console) -> Iterator[None]:
    """A search for images in the block that takes long says how far it is."""
    from ltm_platform.storage.search import telling

    with telling(lambda sentence: console.print(sentence, style="dim")):
        yield


class Doubled:
    """A console whose lines are also in a file: a later reader sees all of the run."""

    def __init__(self, console: Console, log: Path) -> None:
        self._console, self._log = console, log

    def print(self, *objects: object, **options: Any) -> None:
        from rich.console import Console

        self._console.print(*objects, **options)
        with self._log.open("a") as file:
            Console(file=file, width=WIDTH_OF_FILES, highlight=False, markup=False).print(*objects)


def plain_table(*head: str, texts: int = 1, **options: Any) -> Table:
    """A table without lines; its first ``texts`` columns hold text, the others figures.

    ``options``: of rich's `Table`, such as ``title``.
    """
    from rich.table import Table

    table = Table(*head, title_justify="left", box=None, pad_edge=False, **options)
    for column in table.columns[texts:]:
        column.justify = "right"
    return table


def name_left_out(sentences: Sequence[str]) -> None:
    """Say which images are not counted, where any are not; beside the results."""
    import click

    if not sentences:
        return
    what = "images" if len(sentences) > 1 else "image"
    click.echo(f"not counted: {len(sentences):,} {what} that cannot be decoded", err=True)
    for sentence in sentences[:NAMED]:
        click.echo(f"  {sentence}", err=True)


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
