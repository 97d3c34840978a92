"""``ltm-platform rm``: remove runs with all that is stored of them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from ltm_platform.cli import options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ltm_platform.api import Removal


@click.command("rm")
@options.runs
@click.option("--yes", is_flag=True, help="Do not ask.")
@options.tracking_uri
def command(runs: tuple[str, ...], yes: bool, tracking_uri: str | None) -> None:
    """Remove runs for good: checkpoints, folder, log, and what MLflow has of them. A sweep goes
    with its trials; a run that goes on is refused.

    MLflow keeps parameters and metrics of removed runs out of sight until 'mlflow gc' deletes them.

    \b
    Example:
      ltm-platform rm quickstart-1 quickstart-2
    """
    from ltm_platform import api
    from ltm_platform.errors import UserError

    found = api.removals(runs, tracking_uri=tracking_uri)
    _print_table(found)
    if not yes:
        if not sys.stdin.isatty():
            raise UserError("nothing is removed: without a terminal to ask at, say --yes")
        click.confirm("Remove all of this?", abort=True)
    for one in api.remove([one.name for one in found], tracking_uri=tracking_uri):
        click.echo(f"removed {one.name}")


def _print_table(found: Sequence[Removal]) -> None:
    from ltm_platform.cli.screen.console import plain_table, results
    from ltm_platform.storage import locations
    from ltm_platform.storage.room import shown_bytes

    table = plain_table("run", "status", "trials", "stored", "in")
    for one in found:
        table.add_row(
            one.name,
            one.record.status,
            str(len(one.trials) or ""),
            shown_bytes(one.stored_bytes),
            locations.shown(one.folder.storage_root) if one.folder else "MLflow alone",
        )
    results().print(table)
