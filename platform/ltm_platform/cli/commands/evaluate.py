"""``ltm-platform evaluate``: the accuracy of stored weights."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from ltm_platform.cli import options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ltm_platform.inference.evaluate import Score


@click.command("evaluate")
@options.target
@click.option("--data", metavar="PATH", help="Other data, as data.path; the run's own if left out.")
@options.last
@click.option(
    "--ratio",
    "ratios",
    type=float,
    multiple=True,
    help="A compression ratio in (0, 1]; may be given several times. The run's own if left out.",
)
@click.option(
    "--target-gmacs",
    "budgets",
    type=click.FloatRange(min=0, min_open=True),
    multiple=True,
    help="A budget in 1e9 MACs an image: the ratio is measured that comes closest from below. May "
    "be given several times.",
)
@click.option(
    "--method",
    metavar="METHOD",
    help="Put a method on a network that was trained without one, and record what comes of it as "
    "runs, one a ratio, whose regime in reports is off-the-shelf.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Processes; one a GPU, or at most two on the CPU, if left out.",
)
@click.option("--json", "as_json", is_flag=True, help="A list of objects, one a line of the table.")
@options.tracking_uri
@options.verbose
def command(
    target: str,
    data: str | None,
    last: bool,
    ratios: tuple[float, ...],
    budgets: tuple[float, ...],
    method: str | None,
    workers: int | None,
    as_json: bool,
    tracking_uri: str | None,
    verbose: bool,
) -> None:
    """Measure top-1 and top-5 of a run, or of a checkpoint's folder, on the validation images.

    \b
    Example:
      ltm-platform evaluate quickstart-1 --ratio 0.5 --ratio 0.7 --ratio 1
      ltm-platform evaluate base-1 --method tome --target-gmacs 0.012
    """
    from ltm_platform import api
    from ltm_platform.cli.screen.console import name_left_out, printing
    from ltm_platform.storage import locations

    with printing(verbose=verbose) as printed:
        found = api.evaluate(
            target,
            ratios=ratios,
            target_gmacs=budgets,
            method=method,
            last=last,
            data=data,
            workers=workers,
            tracking_uri=tracking_uri,
            printed=printed,
        )
    if as_json:
        click.echo(json.dumps([asdict(score) for score in found.scores], indent=2))
    else:
        _print_table(found.scores, f"{found.checkpoint.name} on {found.data}")
    name_left_out(found.left_out)
    if found.runs:
        store = locations.shown(found.tracking_uri)
        click.echo(f"recorded in {store}: {', '.join(found.runs)}", err=as_json)


def _print_table(scores: Sequence[Score], title: str) -> None:
    from ltm_platform.cli.screen.console import plain_table, results

    head = ("weights", "ratio", "GMACs", "top-1 %", "top-5 %", "loss", "images")
    table = plain_table(*head, title=title)
    for score in scores:
        table.add_row(
            score.kind,
            "its own" if score.ratio is None else f"{score.ratio:.3g}",
            f"{score.gmacs:.3g}",
            f"{score.top1:.2f}",
            f"{score.top5:.2f}",
            f"{score.loss:.4f}",
            f"{score.images:,}",
        )
    results().print(table)
