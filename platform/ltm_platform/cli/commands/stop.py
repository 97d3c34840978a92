"""``ltm-platform stop``: end a run before its time."""

from __future__ import annotations

import shlex

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
    from ltm_platform import tracking
    from ltm_platform.cli import remote
    from ltm_platform.cli.program import program
    from ltm_platform.errors import UserError
    from ltm_platform.ray_cluster.jobs_api import Cluster
    from ltm_platform.runs import lookup
    from ltm_platform.runs.stop import stop

    found = lookup.locate(run, tracking_uri, address)
    if found.folder:
        stop(found.folder, now=now)
    elif found.address and found.record is None:
        cluster = Cluster(found.address)
        sent = cluster.training(run)
        if sent is None:
            raise UserError(f"the run {run!r} is not going on: there is nothing to stop")
        cluster.interrupt(sent.id)
        click.echo(f"{run} had not begun and is withdrawn")
        return
    elif found.address:
        uri = tracking.tracking_uri(tracking_uri)
        words = ["stop", run, "--tracking-uri", uri, *["--now"] * now]
        remote.ask(run, found.address, words)
        return
    else:
        raise lookup.no_cluster(found)
    after = tracking.find_run(tracking.tracking_uri(tracking_uri), run)
    click.echo(f"{run} has ended as {after.status}")
    if after.status != "FINISHED":
        click.echo(
            f"go on from its last checkpoint with: {shlex.join([*program(), 'resume', run])}"
        )
