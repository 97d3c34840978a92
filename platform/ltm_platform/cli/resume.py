"""``ltm-platform resume``: go on with a run that stopped."""

from __future__ import annotations

import click

from ltm_platform.cli import options
from ltm_platform.errors import UserError


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
    """Go on with RUN, a run's name, from its last checkpoint; or with the trials left of a sweep.

    \b
    Example:
      ltm-platform resume quickstart-1 --set cluster.workers=4
    """
    from ltm_platform.cli import run as single
    from ltm_platform.cli import sweep

    if folder := sweep.find(run, tracking_uri):
        if start or overrides:
            raise UserError(
                f"{run!r} is a sweep, which goes on as it is: leave --from and --set out"
            )
        sweep.go_on(folder, verbose=verbose)
    else:
        single.go_on(run, tracking_uri, start=start, overrides=overrides, verbose=verbose)
