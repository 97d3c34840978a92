"""``ltm-platform validate``: show what a job file means."""

from __future__ import annotations

import click

from ltm_platform.cli import options


@click.command("validate")
@options.job
@options.overrides
def command(job: str, overrides: tuple[str, ...]) -> None:
    """Check JOB and print it with every default filled in. Nothing is started.

    \b
    Example:
      ltm-platform validate jobs/ltm_vit_b.yaml --set recipe.epochs=10
    """
    from ltm_platform import api

    click.echo(api.validate(job, overrides=overrides).to_yaml(), nl=False)
