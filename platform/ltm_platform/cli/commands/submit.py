"""``ltm-platform submit``: train a job."""

from __future__ import annotations

import click

from ltm_platform.cli import options


@click.command("submit")
@options.job
@options.overrides
@click.option("--name", help="Name of the run; <job name>-<number> if left out.")
@options.address
@click.option("--detach", is_flag=True, help="Return once a cluster has taken the job.")
@click.option(
    "--env",
    "variables",
    metavar="NAME[=VALUE]",
    multiple=True,
    help="Give the cluster this environment variable, too, which all who see its dashboard see; "
    "may be given several times. A name that is not known to be harmless needs its value.",
)
@click.option(
    "--profile",
    is_flag=True,
    help="Trace ten steps with torch's profiler, into the artifacts of the run.",
)
@click.option(
    "--smoke",
    is_flag=True,
    help="Try it instead: a few steps, a checkpoint and a resume from it, where it is to run, and "
    "how long all of it would take. Nothing of it stays.",
)
@options.force
@options.verbose
def command(
    job: str,
    overrides: tuple[str, ...],
    name: str | None,
    address: str | None,
    detach: bool,
    variables: tuple[str, ...],
    profile: bool,
    smoke: bool,
    force: bool,
    verbose: bool,
) -> None:
    """Train JOB, a job file, on Ray workers with DeepSpeed, recorded in MLflow.

    \b
    Example:
      ltm-platform submit jobs/quickstart.yaml --set engine.zero_stage=2
      ltm-platform submit jobs/ltm_vit_b.yaml --address http://127.0.0.1:8265 --detach
      ltm-platform submit jobs/ltm_vit_b.yaml --smoke
    """
    from ltm_platform import api
    from ltm_platform.cli.program import program, typed
    from ltm_platform.cli.screen.console import dimmed, long_searches, uncaptured
    from ltm_platform.errors import UserError
    from ltm_platform.job import JobSpec

    if profile:
        overrides = (*overrides, "tracking.profile=true")
    spec = JobSpec.load(job, overrides)
    words = [*program(), "submit", job, *(word for o in overrides for word in ("--set", o))]
    if api.goes_to_cluster(spec, address):
        from ltm_platform.cli.screen.cluster import follow_run

        if smoke:
            sent = api.smoke_there(
                spec,
                name=name,
                address=address,
                variables=variables,
                force=force,
                verbose=verbose,
            )
        else:
            sent = api.submit(
                spec,
                name=name,
                address=address,
                wait=False,
                variables=variables,
                typed=words,
                force=force,
                verbose=verbose,
            )
        follow_run(sent, detach=detach)
        return
    if detach or variables:
        option = "--detach" if detach else "--env"
        raise UserError(
            f"{option} is for a cluster, but this runs here: 'ltm-platform cluster up --local' "
            f"keeps a Ray on this machine that outlives the terminal"
        )
    from ltm_platform.cli.screen.run import Screen
    from ltm_platform.cli.screen.smoke import SmokeScreen

    with uncaptured() as console, long_searches(console):
        if smoke:
            rehearsal = SmokeScreen(console)
            with rehearsal:
                tried = api.smoke(
                    spec,
                    name=name,
                    address=address,
                    force=force,
                    listener=rehearsal,
                    printed=dimmed(console, verbose=verbose),
                )
            rehearsal.forecast(tried)
            return
        screen = Screen(console)
        with screen:
            result = api.submit(
                spec,
                name=name,
                address=address,
                force=force,
                listener=screen,
                printed=dimmed(console, verbose=verbose),
            )
        screen.result(result, typed(words))
