"""``ltm-platform resume``: continue a run that stopped."""

from __future__ import annotations

import click

from ltm_platform.cli import options
from ltm_platform.cli.program import program
from ltm_platform.errors import UserError


@click.command("resume")
@click.argument("run", metavar="RUN")
@click.option("--from", "start", metavar="CHECKPOINT", help="An earlier checkpoint, by its name.")
@options.overrides
@options.address
@click.option("--detach", is_flag=True, help="Return once a cluster has taken it.")
@options.force
@options.tracking_uri
@options.verbose
def command(
    run: str,
    start: str | None,
    overrides: tuple[str, ...],
    address: str | None,
    detach: bool,
    force: bool,
    tracking_uri: str | None,
    verbose: bool,
) -> None:
    """Go on with RUN, a run's name, from its last checkpoint; or with the trials left of a sweep.

    \b
    Example:
      ltm-platform resume quickstart-1 --set cluster.workers=4
    """
    from ltm_platform import api
    from ltm_platform.cli.screen.console import dimmed, uncaptured

    found = api.locate(run, address=address, tracking_uri=tracking_uri)
    if found.is_sweep and (start or overrides):
        raise UserError(f"{run!r} is a sweep, which goes on as it is: leave --from and --set out")
    if found.on_cluster:
        from ltm_platform.cli.screen.cluster import follow_run

        sent = api.resume(
            run,
            start=start,
            overrides=overrides,
            address=found.address,
            wait=False,
            force=force,
            tracking_uri=tracking_uri,
            verbose=verbose,
        )
        follow_run(sent, detach=detach)
        return
    if detach:
        raise UserError(f"--detach is for a cluster, but the run {run!r} goes on here")
    with uncaptured() as console:
        printed = dimmed(console, verbose=verbose)
        if found.is_sweep:
            from ltm_platform.cli.screen.sweep import SweepListener

            trials = SweepListener(console)
            with trials:
                summary = api.resume_sweep(
                    run,
                    address=found.address,
                    tracking_uri=tracking_uri,
                    listener=trials,
                    printed=printed,
                )
            trials.result(summary)
            return
        from ltm_platform.cli.screen.run import Screen

        screen = Screen(console)
        with screen:
            result = api.resume(
                run,
                start=start,
                overrides=overrides,
                address=found.address,
                force=force,
                tracking_uri=tracking_uri,
                listener=screen,
                printed=printed,
            )
        screen.result(result, [*program(), "submit", str(result.folder / "job.yaml")])
