"""``ltm-platform validate``: show what a job file means."""

from __future__ import annotations

import click

from ltm_platform.cli import options


@click.command("validate")
@options.job
@options.overrides
@options.address
def command(job: str, overrides: tuple[str, ...], address: str | None) -> None:
    """Check JOB and print it with every default filled in. Nothing is started.

    All that 'submit' checks and that costs nothing is checked; what is not is said in a comment.

    \b
    Example:
      ltm-platform validate jobs/quickstart.yaml --set recipe.epochs=10
    """
    from ltm_platform import api

    notes: list[str] = []
    spec = api.validate(job, overrides=overrides, address=address, note=notes.append)
    click.echo(spec.to_yaml(), nl=False)
    for note in notes:
        click.echo(f"# {note}")
