"""``ltm-platform reconcile``: close runs that no process trains any more."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from ltm_platform.cli import options


@click.command("reconcile")
@click.option("--dry-run", is_flag=True, help="Say what would be closed, and change nothing.")
@click.option(
    "--silent-for",
    "minutes",
    metavar="MINUTES",
    type=click.FloatRange(min=1),
    help="Close runs of other machines, too, that have recorded nothing for so long.",
)
@click.option("--json", "as_json", is_flag=True, help="A list of objects, one a RUNNING run.")
@options.tracking_uri
def command(dry_run: bool, minutes: float | None, as_json: bool, tracking_uri: str | None) -> None:
    """Close as KILLED the runs that are recorded as RUNNING, but that nobody trains.

    Such are left by a power cut, or when the command itself is killed. A run of this machine is
    known by the lock that its process holds; runs of other machines are left alone.

    \b
    Example:
      ltm-platform reconcile --dry-run
    """
    from ltm_platform import api

    silent_s = None if minutes is None else 60 * minutes
    verdicts = api.reconcile(silent_s=silent_s, dry_run=dry_run, tracking_uri=tracking_uri)
    if as_json:
        click.echo(json.dumps([asdict(verdict) for verdict in verdicts], indent=2))
        return
    if not verdicts:
        click.echo("No run is recorded as RUNNING")
    for verdict in verdicts:
        done = "would be KILLED" if dry_run else "KILLED"
        state = done if verdict.trained is False else "RUNNING"
        click.echo(f"{verdict.run}  {state}: {verdict.reason}")
