"""``ltm-platform table``: the paper's results beside our own."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from ltm_platform.cli import options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ltm_platform.report.results import Line, Results

HEAD = ("network", "pixels", "method")
FIGURES = ("params M", "GMACs", "top-1 %")
OURS = ("EMA top-1 %", "regime", "epochs", "data", "run")
TEXTS = {*HEAD, "regime", "data", "run"}
FORMATS = ("text", "markdown", "csv", "json")


@click.command("table")
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default="text",
    show_default=True,
    help="csv and json hold both ways of counting GMACs.",
)
@options.tracking_uri
def command(form: str, tracking_uri: str | None) -> None:
    """Print the published results with our own runs beside them, each with its regime.

    A run stands beside a published figure only if it was trained on all of ImageNet-1k; all others
    follow below, with their data. Of several runs of one kind the best counts, at its best epoch.

    \b
    Example:
      ltm-platform table --format markdown > results.md
    """
    from ltm_platform import tracking
    from ltm_platform.report.comparison import CURVES, Tracked
    from ltm_platform.report.published import published
    from ltm_platform.report.results import results

    uri = tracking.tracking_uri(tracking_uri)
    runs = [
        Tracked(record, tracking.read_curves(uri, record.run_id, CURVES))
        for record in tracking.list_runs(uri)
        if record.status == "FINISHED"
    ]
    table = published()
    found = results(table, runs)
    if form == "json":
        click.echo(json.dumps({"source": table.source, **asdict(found)}, indent=2))
    elif form == "csv":
        _print_csv([*found.on_imagenet, *found.others])
    elif form == "markdown":
        _print_markdown(found, table.source)
    else:
        _print_text(found, table.source)


def _cells(line: Line) -> list[str]:
    """What people read; ours are counted as the paper counts."""
    from ltm_platform.cli.console import cell

    paper, ours = line.published, line.ours
    cells = [line.network, cell(line.image_size, "{}"), line.method]
    cells += [
        cell(paper and paper.params_m, "{:g}"),
        cell(paper and paper.gmacs, "{:g}"),
        cell(paper and paper.top1, "{:.1f}"),
    ]
    cells += [
        cell(ours and ours.params_m, "{:.2f}"),
        cell(line.our_gmacs, "{:.3g}"),
        cell(ours and ours.top1, "{:.2f}"),
        cell(ours and ours.ema_top1, "{:.2f}"),
    ]
    return cells + (
        [ours.regime, str(ours.epochs), ours.data, ours.run] if ours else [""] * (len(OURS) - 1)
    )


def _parts(found: Results, source: str) -> list[tuple[str, list[Line]]]:
    """Titles and lines of the table, and of what has no place in it, if there is any."""
    parts = [(f"ImageNet-1k. Published: {source}, all from scratch.", found.on_imagenet)]
    if found.others:
        parts.append(("Other data or networks: nothing published compares to them.", found.others))
    return parts


def _print_text(found: Results, source: str) -> None:
    from rich.table import Table

    from ltm_platform.cli.console import results

    for number, (title, part) in enumerate(_parts(found, source)):
        if number:
            results().print()
        head = [*HEAD, *(f"paper {name}" for name in FIGURES), *FIGURES, *OURS]
        table = Table(*head, title=title, title_justify="left", box=None, pad_edge=False)
        for column in table.columns:
            if column.header not in TEXTS:
                column.justify = "right"
        for line in part:
            table.add_row(*_cells(line))
        results().print(table)
    click.echo("GMACs of a published network are counted as the paper counts them.")


def _print_markdown(found: Results, source: str) -> None:
    for title, part in _parts(found, source):
        head = [*HEAD, *(f"paper {name}" for name in FIGURES), *FIGURES, *OURS]
        rules = ["---" if name in TEXTS else "--:" for name in head]
        click.echo(f"{title}\n")
        for row in (head, rules, *map(_cells, part)):
            click.echo(f"| {' | '.join(text.replace('|', chr(92) + '|') for text in row)} |")
        click.echo("")


def _print_csv(lines: Sequence[Line]) -> None:
    """One line a result of ours or of the paper; figures in full."""
    from ltm_platform.report.published import Figures
    from ltm_platform.report.results import Measured

    paper = list(Figures.__dataclass_fields__)
    ours = list(Measured.__dataclass_fields__)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(
        [
            *("network", "backbone", "image_size", "method", "paper_counts_attention_matmuls"),
            *(f"paper_{name}" for name in paper),
            *(f"our_{name}" for name in ours),
        ]
    )
    for line in lines:
        writer.writerow(
            [
                *(line.network, line.backbone, line.image_size, line.method),
                line.attention_matmuls,
                *(getattr(line.published, name, None) for name in paper),
                *(getattr(line.ours, name, None) for name in ours),
            ]
        )
