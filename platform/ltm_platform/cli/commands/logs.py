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
    from ltm_platform import api

    pieces = api.logs(run, follow=follow, address=address, tracking_uri=tracking_uri)
    try:
        for text in pieces:
            click.echo(text, nl=False)
    except KeyboardInterrupt:
        click.echo(f"\n{run} is let be")
