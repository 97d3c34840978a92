"""``ltm-platform resume``: go on with a run that stopped."""

from __future__ import annotations

import click

from ltm_platform.cli import options
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
    from ltm_platform.cli import foreground as single
    from ltm_platform.cli import foreground_sweep, remote
    from ltm_platform.ray_cluster.address import Kind, find_address, kind
    from ltm_platform.runs import lookup

    if swept := foreground_sweep.find(run, tracking_uri):
        folder, recorded = swept
        if start or overrides:
            raise UserError(
                f"{run!r} is a sweep, which goes on as it is: leave --from and --set out"
            )
        where = find_address(address or recorded)
        if kind(where) != Kind.CLUSTER and not detach:
            foreground_sweep.go_on(folder, address=where, verbose=verbose)
            return
    found = lookup.locate(run, tracking_uri, address)
    where = find_address(address or found.address)
    if kind(where) == Kind.CLUSTER:
        words = ["--from", start] if start else []
        words += [word for override in overrides for word in ("--set", override)]
        words += ["--force"] * force + ["--verbose"] * verbose
        remote.resume(run, where, words, uri=tracking_uri, detach=detach)
    elif detach:
        raise UserError(f"--detach is for a cluster, but the run {run!r} goes on here")
    else:
        single.go_on(
            run,
            tracking_uri,
            start=start,
            overrides=overrides,
            address=where,
            force=force,
            verbose=verbose,
        )
