"""``ltm-platform cluster``: start, look at and end a cluster."""

from __future__ import annotations

from pathlib import Path

import click

from ltm_platform.cli.group import Group

FILE = click.argument(
    "file", metavar="[cluster.yaml]", default="cluster.yaml", type=click.Path(path_type=Path)
)
LOCAL = click.option("--local", is_flag=True, help="A Ray on this machine instead.")
YES = click.option("-y", "--yes", is_flag=True, help="Do not ask.")


@click.group("cluster", cls=Group)
def command() -> None:
    """Start, look at and end a cluster by Ray's launcher, or a Ray that stays on this machine.

    \b
    Example:
      ltm-platform cluster up --local
      ltm-platform cluster up cluster.yaml
    """


@command.command("up")
@FILE
@LOCAL
@YES
def up(file: Path, local: bool, yes: bool) -> None:
    """Start the cluster that a file describes; or, with --local, a Ray that outlives the terminal.

    Later submits find the local one by themselves, share it and wait when it is full.

    \b
    Example:
      ltm-platform cluster up --local
    """
    from ltm_platform import api

    if not local:
        raise click.exceptions.Exit(api.cluster_up(file, yes=yes))
    ray, machine = api.start_local_ray()
    click.echo(
        f"Ray is up on {ray.address} with {machine.cpus:g} CPUs and {machine.gpus:g} GPUs, for "
        f"this machine and with a token; submit uses it, 'ltm-platform cluster down --local' "
        f"ends it"
    )


@command.command("down")
@FILE
@LOCAL
@YES
def down(file: Path, local: bool, yes: bool) -> None:
    """End the cluster, and with it the runs on it.

    \b
    Example:
      ltm-platform cluster down --local
    """
    from ltm_platform import api

    if not local:
        raise click.exceptions.Exit(api.cluster_down(file, yes=yes))
    api.stop_local_ray()
    click.echo("Ray has ended")


@command.command("status")
@FILE
def status(file: Path) -> None:
    """Show the nodes and what of them is used: of the Ray on this machine if it is up.

    \b
    Example:
      ltm-platform cluster status
    """
    from ltm_platform import api

    ray = api.local_ray()
    if ray is None:
        click.echo(api.cluster_status(file), nl=False)
        return
    click.echo(f"Ray is up on {ray.address}")
    for sent in ray.going_on:
        click.echo(f"  {sent.run}  {sent.command} {sent.status}")
    if not ray.going_on:
        click.echo("  nothing is going on there")
