"""``ltm-platform resume``: go on with a run that stopped."""

from __future__ import annotations

import click

from ltm_platform.cli import options


@click.command("resume")
@click.argument("run", metavar="RUN")
@click.option("--from", "start", metavar="CHECKPOINT", help="An earlier checkpoint, by its name.")
@options.overrides
@options.tracking_uri
@options.verbose
def command(
    run: str,
    start: str | None,
    overrides: tuple[str, ...],
    tracking_uri: str | None,
    verbose: bool,
) -> None:
    """Go on with RUN, a run's name, from its last checkpoint.

    \b
    Example:
      ltm-platform resume quickstart-1 --set cluster.workers=4
    """
    from ltm_platform.cli.run import go_on

    go_on(run, tracking_uri, start=start, overrides=overrides, verbose=verbose)
