"""``ltm-platform status``: how a run stands."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict

import click

from ltm_platform.cli import options


@click.command("status")
@options.run
@click.option("--json", "as_json", is_flag=True, help="An object.")
@options.address
@options.tracking_uri
def command(run: str, as_json: bool, address: str | None, tracking_uri: str | None) -> None:
    """Show how RUN, a run's name, stands, here or on a cluster, and what to type next.

    \b
    Example:
      ltm-platform status quickstart-1
    """
    from ltm_platform.cli.console import duration
    from ltm_platform.cli.program import program
    from ltm_platform.launch import whereabouts
    from ltm_platform.launch.cluster import Cluster

    found = whereabouts.locate(run, tracking_uri, address)
    if found.record is None:
        assert found.address
        assert found.submission
        sent = Cluster(found.address).look(found.submission)
        rows = {
            "state": sent.status,
            "where": found.address,
            "error": sent.message if sent.status == "FAILED" else "",
        }
        ended, fine = sent.ended, sent.status == "SUCCEEDED"
    else:
        about = whereabouts.summarise(found.record)
        rows = {
            "state": about.state,
            "epoch": about.epoch,
            "top-1": "" if about.top1 is None else f"{about.top1:.2f} %",
            "images/s": "" if about.images_per_s is None else f"{about.images_per_s:,.0f}",
            "workers": "" if about.workers is None else str(about.workers),
            "restarts": str(about.restarts),
            "age": duration(about.age_s),
            "where": about.where,
            "folder": found.record.folder or "",
            "error": about.error or "",
        }
        ended, fine = about.state != "RUNNING", about.state == "FINISHED"
        if as_json:
            click.echo(json.dumps(asdict(about), indent=2))
            return
    if as_json:
        click.echo(json.dumps({"name": run} | rows, indent=2))
        return
    click.echo(run)
    for key, value in rows.items():
        if value:
            click.echo(f"  {key:<9} {value}")
    if not fine:
        following = ["resume", run] if ended and found.record else ["logs", run]
        if not ended:
            following = ["logs", "-f", run]
        click.echo(f"  {'next':<9} {shlex.join([*program(), *following])}")
