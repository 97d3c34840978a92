"""``ltm-platform compare``: runs side by side."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ltm_platform.cli import options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ltm_platform.report.comparison import Column

SHAPES = {
    "GMACs": "{:.4g}",
    "base GMACs": "{:.4g}",
    "params M": "{:.4g}",
    "latency ms": "{:.2f}",
    "training images/s": "{:,.0f}",
    "inference images/s": "{:,.0f}",
}
PERCENT = "{:.2f}"
MOST_ACROSS = 6
LONGEST_NUMBER = 8


@click.command("compare")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
@click.option(
    "--out",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Where the plot goes, by its ending as PNG, SVG or PDF; compare.png among the platform's "
    "data if left out.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="A list of objects, one a run; drawn is then what --out names alone.",
)
@options.tracking_uri
def command(
    runs: tuple[str, ...], out: Path | None, as_json: bool, tracking_uri: str | None
) -> None:
    """Print what sets RUNs apart: the fields in which their jobs differ, cost, accuracy and speed.

    Draws top-1 against GMACs, and the losses of training and validation.

    \b
    Example:
      ltm-platform compare quickstart-1 quickstart-2 --out compare.svg
    """
    from ltm_platform import api
    from ltm_platform.storage import locations

    if out is not None:
        from ltm_platform.report.figures import check_picture

        check_picture(out, "--out")
    compared = api.compare(runs, tracking_uri=tracking_uri)
    picture = out
    if picture is None and not as_json:
        picture = locations.home() / "compare.png"
    if as_json:
        click.echo(json.dumps([asdict(column) for column in compared.columns], indent=2))
    else:
        _print_table(compared.columns)
    if picture is not None:
        compared.draw(picture)
        click.echo(f"plot: {locations.shown(picture)}", err=as_json)


def _print_table(columns: Sequence[Column]) -> None:
    """A column a run; a line a run where there are too many of them."""
    from ltm_platform.cli.screen.console import cell, plain_table, results

    head = ["", *(column.name for column in columns)]
    rows = [["state", *(column.status for column in columns)]]
    if any(column.error for column in columns):
        rows.append(["error", *(column.error or "" for column in columns)])
    rows += [
        [key, *(_field(column.params[key] or "") for column in columns)]
        for key in columns[0].params
    ]
    rows += [
        [title, *(cell(column.figures[title], SHAPES.get(title, PERCENT)) for column in columns)]
        for title in columns[0].figures
    ]
    if len(columns) > MOST_ACROSS:
        head, *rows = [list(line) for line in zip(head, *rows, strict=True)]
        head[0] = "run"
    table = plain_table(*head)
    for row in rows:
        table.add_row(*row)
    results().print(table)


def _field(value: str) -> str:
    """A field of a job; of a long fraction, as a sweep draws them, the first digits."""
    if len(value) <= LONGEST_NUMBER:
        return value
    try:
        return f"{float(value):.5g}"
    except ValueError:
        return value
