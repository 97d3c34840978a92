"""What a user sees of a command that a cluster runs."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from ltm_platform.cli.program import program

if TYPE_CHECKING:
    from ltm_platform.api import SentCommand


def follow_run(sent: SentCommand, *, detach: bool) -> None:
    """Say where the run is, and unless ``detach`` show what it prints; exit as it does."""
    click.echo(f"{sent.run} is on {sent.address}")
    _note(sent)
    if detach:
        _how_to_follow(sent.run)
        return
    try:
        _show(sent)
    except KeyboardInterrupt:
        click.echo(f"\ndetached: {sent.run} goes on")
        _how_to_follow(sent.run)
        raise click.exceptions.Exit(130) from None


def follow(sent: SentCommand) -> None:
    """Show what a command prints; exit as it does."""
    _note(sent)
    _show(sent)


def _note(sent: SentCommand) -> None:
    for notice in sent.notices:
        click.echo(f"  note      {notice}")


def _show(sent: SentCommand) -> None:
    for text in sent.follow():
        click.echo(text, nl=False)
    ending = sent.ending()
    if ending.message:
        click.echo(ending.message, err=True)
    if ending.exit_code:
        raise click.exceptions.Exit(ending.exit_code)


def _how_to_follow(run: str) -> None:
    for words, purpose in (("logs -f", "follow it"), ("stop", "end it with a checkpoint")):
        click.echo(f"  {shlex.join(program())} {words} {run}  # {purpose}")
