"""``ltm-platform runs``: list runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from ltm_platform.cli import options

if TYPE_CHECKING:
    from ltm_platform.tracking import RunRecord

COLUMNS = {
    "top-1 %": ("val/top1", "{:.1f}"),
    "GMACs": ("model/gmacs", "{:.3g}"),
    "base GMACs": ("model/gmacs_base", "{:.3g}"),
    "params M": ("model/params_m", "{:.3g}"),
    "images/s": ("train/images_per_s", "{:,.0f}"),
}


@click.command("runs")
@options.tracking_uri
@click.option(
    "--json", "as_json", is_flag=True, help="A list of objects: name, status, params, metrics."
)
def command(tracking_uri: str | None, as_json: bool) -> None:
    """List runs, the newest first, with their state and metrics.

    \b
    Example:
      ltm-platform runs --json | jq '.[0].metrics["val/top1"]'
    """
    from ltm_platform import tracking

    runs = tracking.list_runs(tracking.tracking_uri(tracking_uri))
    if as_json:
        click.echo(json.dumps([_as_dict(run) for run in runs], indent=2))
    elif not runs:
        click.echo("No runs yet: ltm-platform submit jobs/quickstart.yaml makes one")
    else:
        _print_table(runs)


def _as_dict(run: RunRecord) -> dict:
    return {
        "name": run.name,
        "status": run.status,
        "params": run.params,
        "metrics": run.metrics,
        "experiment": run.experiment,
        "run_id": run.run_id,
        "started_ms": run.started_ms,
        "ended_ms": run.ended_ms,
        "error": run.error,
    }


def _print_table(runs: list[RunRecord]) -> None:
    from rich.table import Table

    from ltm_platform.cli.console import results

    table = Table("run", "state", "method", *COLUMNS, box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    for column in table.columns[3:]:
        column.justify = "right"
    for run in runs:
        cells = [
            shape.format(run.metrics[key]) if key in run.metrics else ""
            for key, shape in COLUMNS.values()
        ]
        table.add_row(run.name, run.status, run.params.get("model.method", ""), *cells)
    results().print(table)
