"""``ltm-platform runs``: list runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from ltm_platform.cli import options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ltm_platform.tracking import RunRecord

COLUMNS = {
    "top-1 %": ("val/top1", "{:.1f}"),
    "GMACs": ("model/gmacs", "{:.3g}"),
    "base GMACs": ("model/gmacs_base", "{:.3g}"),
    "params M": ("model/params_m", "{:.3g}"),
    "images/s": ("train/images_per_s", "{:,.0f}"),
}
SHOWN = {"name", "status", "model.method", *(key for key, _ in COLUMNS.values())}
STATUSES = ("RUNNING", "FINISHED", "FAILED", "KILLED", "SCHEDULED")


@click.command("runs")
@click.option(
    "--status",
    "statuses",
    type=click.Choice(STATUSES, case_sensitive=False),
    multiple=True,
    help="Only runs in this state; may be given several times.",
)
@click.option("--experiment", metavar="NAME", help="Only runs of this MLflow experiment.")
@click.option("--job", metavar="NAME", help="Only runs of this job; * stands for anything.")
@click.option(
    "--where",
    metavar="CONDITION",
    multiple=True,
    help="Only runs for which this is true: a metric or a field of the job, one of "
    "=, !=, >, <, >=, <= and a value, e.g. 'val/top1>90'; may be given several times.",
)
@click.option("--sort", metavar="KEY", help="A metric or field; -KEY has the largest first.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many runs.")
@click.option(
    "--json", "as_json", is_flag=True, help="A list of objects: name, status, params, metrics."
)
@options.tracking_uri
def command(
    statuses: tuple[str, ...],
    experiment: str | None,
    job: str | None,
    where: tuple[str, ...],
    sort: str | None,
    limit: int | None,
    as_json: bool,
    tracking_uri: str | None,
) -> None:
    """List runs, the newest first, with their state and metrics.

    \b
    Example:
      ltm-platform runs --where 'val/top1>90' --where model.method=ltm --sort -val/top1
      ltm-platform runs --json | jq '.[0].metrics["val/top1"]'
    """
    from ltm_platform import api

    runs = api.runs(
        where=where,
        statuses=statuses,
        experiment=experiment,
        job=job,
        sort=sort,
        limit=limit,
        tracking_uri=tracking_uri,
    )
    if as_json:
        click.echo(json.dumps([_as_dict(run) for run in runs], indent=2))
    elif runs:
        _print_table(runs, _condition_keys(where, experiment, job, sort))
    elif everything := api.runs(tracking_uri=tracking_uri):
        click.echo(f"None of {len(everything)} runs is such a run")
    else:
        click.echo("No runs yet: ltm-platform submit jobs/quickstart.yaml makes one")


def _condition_keys(
    where: Sequence[str], experiment: str | None, job: str | None, sort: str | None
) -> list[str]:
    """The keys of conditions that have no column anyway."""
    from ltm_platform.report.selection import Condition

    keys = [Condition.parse(text).key for text in where]
    keys += ["experiment"] * (experiment is not None) + ["job"] * (job is not None)
    keys += [sort.removeprefix("-")] if sort else []
    return [key for key in dict.fromkeys(keys) if key not in SHOWN]


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


def _print_table(runs: Sequence[RunRecord], further: Sequence[str]) -> None:
    """``further``: keys of conditions, a column each."""
    from ltm_platform.cli.screen.console import cell, plain_table, results
    from ltm_platform.report.selection import value_of

    table = plain_table("run", "state", "method", *COLUMNS, *further, texts=3)
    table.columns[0].no_wrap = True
    for run in runs:
        cells = [cell(run.metrics.get(key), shape) for key, shape in COLUMNS.values()]
        cells += [cell(value_of(run, key)) for key in further]
        table.add_row(run.name, run.status, run.params.get("model.method", ""), *cells)
    results().print(table)
