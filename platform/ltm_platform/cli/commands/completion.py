"""``ltm-platform completion``: what a shell needs to complete commands, options and names."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script of SHELL.

    \b
    Example:
      ltm-platform completion fish > ~/.config/fish/completions/ltm-platform.fish

    In ~/.bashrc, or with zsh in ~/.zshrc, it is read by: eval "$(ltm-platform completion bash)"
    """
    from ltm_platform.cli.app import PROGRAM, cli

    kind = get_completion_class(shell)
    assert kind
    variable = f"_{PROGRAM.replace('-', '_').upper()}_COMPLETE"
    click.echo(kind(cli, {}, PROGRAM, variable).source())
