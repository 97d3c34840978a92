"""``ltm-platform logs``: what a run printed."""

from __future__ import annotations

import click

from ltm_platform.cli import options


@click.command("logs")
@options.run
@click.option("-f", "--follow", is_flag=True, help="Go on until the run ends; Ctrl-C lets it be.")
@options.address
@options.tracking_uri
def command(run: str, follow: bool, address: str | None, tracking_uri: str | None) -> None:
    """Print what RUN, a run's name, has printed so far, here or on a cluster.

    \b
    Example:
      ltm-platform logs -f quickstart-1
    """
    from ltm_platform.errors import UserError
    from ltm_platform.ray_cluster.jobs_api import Cluster
    from ltm_platform.runs import lookup
    from ltm_platform.runs.logs import read

    found = lookup.locate(run, tracking_uri, address)
    if found.folder:
        if not found.folder.log.exists():
            raise UserError(f"the run {run!r} has no log at {found.folder.log}")
        lines = read(found.folder, follow=follow)
    elif found.address and found.submission:
        cluster, submission = Cluster(found.address), found.submission
        lines = cluster.follow(submission) if follow else iter([cluster.log(submission)])
    else:
        raise lookup.no_cluster(found)
    try:
        for text in lines:
            click.echo(text, nl=False)
    except KeyboardInterrupt:
        click.echo(f"\n{run} is let be")
