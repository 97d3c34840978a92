"""``ltm-platform table``: the paper's results beside our own."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click

from ltm_platform.cli import options
from ltm_platform.cli.screen import console
from ltm_platform.cli.screen.console import cell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ltm_platform.report.paper_table import Line, Results
    from ltm_platform.report.published import PublishedFigures

NETWORK = ("network", "pixels", "method")
PAPER = ("paper params M", "paper GMACs", "paper top-1 %")
OURS = ("params M", "GMACs", "top-1 %", "EMA top-1 %", "regime", "epochs", "data", "run")
TEXTS = {"network", "method", "regime", "data", "run"}
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
    from ltm_platform import api

    found, table = api.results_table(tracking_uri=tracking_uri)
    if form == "json":
        click.echo(
            json.dumps({"source": table.source, "regime": table.regime, **asdict(found)}, indent=2)
        )
    elif form == "csv":
        _print_csv([*found.on_imagenet, *found.others])
    elif form == "markdown":
        _print_markdown(found, table)
    else:
        _print_text(found, table)


@dataclass(frozen=True, slots=True)
class _Part:
    """A table as people read it."""

    title: str
    head: list[str]
    rows: list[list[str]]


def _parts(found: Results, table: PublishedFigures) -> list[_Part]:
    """The published table, and what has no place in it, if there is any."""
    parts = [
        _Part(
            f"{table.data}. Published: {table.source}, {table.regime}. "
            f"GMACs are counted as the paper counts them for the network.",
            [*NETWORK, *PAPER, *OURS],
            [[*_network(line), *_paper(line), *_ours(line)] for line in found.on_imagenet],
        )
    ]
    if found.others:
        parts.append(
            _Part(
                "Other data or networks: nothing published compares to them.",
                [*NETWORK, *OURS],
                [[*_network(line), *_ours(line)] for line in found.others],
            )
        )
    return parts


def _network(line: Line) -> list[str]:
    return [line.network, cell(line.image_size, "{}"), line.method]


def _paper(line: Line) -> list[str]:
    paper = line.published
    if paper is None:
        return [""] * len(PAPER)
    return [cell(paper.params_m, "{:.1f}"), f"{paper.gmacs:g}", f"{paper.top1:.1f}"]


def _ours(line: Line) -> list[str]:
    ours = line.ours
    if ours is None:
        return [""] * len(OURS)
    figures = [
        cell(ours.params_m, "{:.2f}"),
        cell(line.our_gmacs, "{:.3g}"),
        cell(ours.top1, "{:.2f}"),
        cell(ours.ema_top1, "{:.2f}"),
    ]
    return [*figures, ours.regime, str(ours.epochs), ours.data, ours.run]


def _print_text(found: Results, published: PublishedFigures) -> None:
    from rich.table import Table

    for part in _parts(found, published):
        table = Table(title=part.title, title_justify="left", box=None, pad_edge=False)
        for name in part.head:
            # in two lines, for the sake of narrow terminals
            head = name.replace("paper ", "paper\n").replace("EMA ", "EMA\n")
            table.add_column(
                head,
                justify="left" if name in TEXTS else "right",
                overflow="fold",
                no_wrap=name == "network",
            )
        for row in part.rows:
            table.add_row(*row)
        console.results().print(table)


def _print_markdown(found: Results, published: PublishedFigures) -> None:
    for part in _parts(found, published):
        rules = ["---" if name in TEXTS else "--:" for name in part.head]
        click.echo(f"{part.title}\n")
        for row in (part.head, rules, *part.rows):
            click.echo(f"| {' | '.join(text.replace('|', chr(92) + '|') for text in row)} |")
        click.echo("")


def _print_csv(lines: Sequence[Line]) -> None:
    """One line a result of ours or of the paper; figures in full."""
    from ltm_platform.report.paper_table import OwnFigures
    from ltm_platform.report.published import Figures

    paper = list(Figures.__dataclass_fields__)
    ours = list(OwnFigures.__dataclass_fields__)
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
