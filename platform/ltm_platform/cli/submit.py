"""``ltm-platform submit``: train a job."""

from __future__ import annotations

import click

from ltm_platform.cli import options


@click.command("submit")
@options.job
@options.overrides
@click.option("--name", help="Name of the run; <job name>-<number> if left out.")
@options.verbose
def command(job: str, overrides: tuple[str, ...], name: str | None, verbose: bool) -> None:
    """Train JOB, a job file, on Ray workers with DeepSpeed, recorded in MLflow.

    \b
    Example:
      ltm-platform submit jobs/quickstart.yaml --set engine.zero_stage=2
    """
    from ltm_platform.cli.program import program
    from ltm_platform.cli.run import start
    from ltm_platform.job import JobSpec

    spec = JobSpec.load(job, overrides)
    if name is not None:
        spec = spec.replace("name", name)
    typed = [*program(), "submit", job, *(word for o in overrides for word in ("--set", o))]
    start(spec, typed, name=name, verbose=verbose)
