"""``ltm-platform pareto``: one network at many compression ratios."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ltm_platform.cli import options

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ltm_platform.report.pareto import Measurement


@click.command("pareto")
@options.target
@click.option(
    "--ratio",
    "ratios",
    type=float,
    multiple=True,
    help="A compression ratio in (0, 1]; may be given several times instead of --points.",
)
@click.option(
    "--points",
    type=click.IntRange(min=2),
    default=6,
    show_default=True,
    help="So many ratios, evenly over model.elastic, or from 0.5 to 1 for a run without.",
)
@options.last
@click.option("--data", metavar="PATH", help="Other data, as data.path; the run's own if left out.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes, as of evaluate.")
@click.option(
    "--out", metavar="FILE", type=click.Path(path_type=Path), help="A copy of the picture."
)
@click.option(
    "--json", "as_json", is_flag=True, help="An object: the curve of each of the weights."
)
@options.tracking_uri
@options.verbose
def command(
    target: str,
    ratios: tuple[float, ...],
    points: int,
    last: bool,
    data: str | None,
    workers: int | None,
    out: Path | None,
    as_json: bool,
    tracking_uri: str | None,
    verbose: bool,
) -> None:
    """Measure one checkpoint at many compression ratios and log the curve to its run in MLflow.

    There it is the metrics pareto/..., whose step is the ratio in permille, and the artifacts
    pareto/curve.png and curve.json; with --last, pareto_last/... The curve of other weights than
    the first, after a resume perhaps, is pareto_2/...

    \b
    Example:
      ltm-platform pareto quickstart-1 --points 11
    """
    from ltm_platform import api
    from ltm_platform.cli.screen.console import name_left_out, printing
    from ltm_platform.storage import locations

    with printing(verbose=verbose) as printed:
        found = api.pareto(
            target,
            ratios=ratios,
            points=points,
            last=last,
            data=data,
            workers=workers,
            picture=out,
            tracking_uri=tracking_uri,
            printed=printed,
        )
    if as_json:
        text = {kind: [asdict(one) for one in curve] for kind, curve in found.curves.items()}
        click.echo(json.dumps(text, indent=2))
    else:
        _print_table(found.curves, f"{found.checkpoint.name} on {found.data}")
    name_left_out(found.left_out)
    if found.artifacts:
        where = f"{found.run} in {locations.shown(found.tracking_uri)}"
        click.echo(f"logged to {where}: metrics and artifacts {found.artifacts}/", err=as_json)
    if out is not None:
        click.echo(f"plot: {locations.shown(out)}", err=as_json)


def _print_table(curves: Mapping[str, Sequence[Measurement]], title: str) -> None:
    from ltm_platform.cli.screen.console import plain_table, results

    head = ("weights", "ratio", "GMACs", "top-1 %", "top-5 %", "loss", "on the front")
    table = plain_table(*head, title=title)
    for kind, curve in curves.items():
        for one in curve:
            table.add_row(
                kind,
                f"{one.ratio:g}",
                f"{one.gmacs:.3g}",
                f"{one.top1:.2f}",
                f"{one.top5:.2f}",
                f"{one.loss:.4f}",
                "yes" if one.best else "",
            )
    results().print(table)
