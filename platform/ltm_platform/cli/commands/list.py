"""``ltm-platform list``: how all runs stand."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from ltm_platform.cli import options


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="A list of objects, one a run.")
@options.address
@options.tracking_uri
def command(as_json: bool, address: str | None, tracking_uri: str | None) -> None:
    """Show how runs stand, here and on a cluster, the newest first; `runs` compares their results.

    \b
    Example:
      ltm-platform list
    """
    from ltm_platform import api

    runs = api.overview(address=address, tracking_uri=tracking_uri)
    if as_json:
        click.echo(json.dumps([asdict(run) for run in runs], indent=2))
        return
    if not runs:
        click.echo("No runs yet: ltm-platform submit jobs/quickstart.yaml makes one")
        return
    from rich.table import Table

    from ltm_platform.cli.screen.console import cell, duration, results

    columns = ("run", "state", "epoch", "top-1 %", "images/s", "workers", "restarts", "age")
    table = Table(*columns, "where", box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    for column in table.columns[2:8]:
        column.justify = "right"
    for run in runs:
        figures = [cell(run.top1, "{:.1f}"), cell(run.images_per_s, "{:,.0f}")]
        counts = [cell(run.workers, "{}"), str(run.restarts)]
        table.add_row(
            run.name, run.state, run.epoch, *figures, *counts, duration(run.age_s), run.where
        )
    results().print(table)
