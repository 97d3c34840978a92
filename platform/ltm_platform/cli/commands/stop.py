"""``ltm-platform stop``: end a run before its time."""

from __future__ import annotations

import click

from ltm_platform.cli import options


@click.command("stop")
@options.run
@click.option("--now", is_flag=True, help="At once, without a checkpoint of the last steps.")
@options.address
@options.tracking_uri
def command(run: str, now: bool, address: str | None, tracking_uri: str | None) -> None:
    """Have RUN, a run's name, save a checkpoint and end as KILLED, here or on a cluster.

    \b
    Example:
      ltm-platform stop quickstart-1
    """
    from ltm_platform import api
    from ltm_platform.cli.program import way_on

    stopped = api.stop(run, now=now, address=address, tracking_uri=tracking_uri)
    if stopped.status is None:
        click.echo(f"{run} had not begun and is withdrawn")
        return
    click.echo(f"{run} has ended as {stopped.status}")
    if stopped.status != "FINISHED":
        click.echo(way_on(run, has_checkpoint=stopped.resumable))
