"""``ltm-platform jobs``: the job files that come with the package."""

from __future__ import annotations

import json
from dataclasses import asdict

import click


@click.command("jobs")
@click.option("--json", "as_json", is_flag=True, help="A list of objects, one a job.")
def command(as_json: bool) -> None:
    """List the bundled jobs: what they train, and at which budget. 'submit' takes their names.

    \b
    Example:
      ltm-platform jobs
    """
    from ltm_platform import api

    found = api.bundled_jobs()
    if as_json:
        click.echo(json.dumps([asdict(one) for one in found], indent=2))
        return
    from ltm_platform.cli.screen.console import plain_table, results

    table = plain_table("job", "backbone", "method", "keeps", "epochs", "starts from")
    for one in found:
        start = "timm's weights" if one.pretrained else "scratch"
        table.add_row(one.name, one.backbone, one.method, one.budget, str(one.epochs), start)
    results().print(table)
