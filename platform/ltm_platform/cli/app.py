"""The entry of the command line: finds the subcommand, and turns errors into exit codes."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

import click

from ltm_platform import __version__
from ltm_platform.cli.group import Group
from ltm_platform.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = (
    "submit",
    "tune",
    "plan",
    "resume",
    "list",
    "status",
    "logs",
    "stop",
    "validate",
    "runs",
    "compare",
    "table",
    "evaluate",
    "pareto",
    "predict",
    "export",
    "reconcile",
    "ui",
    "models",
    "data",
    "cluster",
    "doctor",
)


class _Commands(Group):
    """Loads a command's module when it is asked for."""

    def list_commands(self, _: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        return importlib.import_module(f"ltm_platform.cli.commands.{name}").command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ltm-platform")
def cli() -> None:
    """Train efficient vision transformers with Learnable Token Merging.

    \b
    Example:
      ltm-platform submit jobs/quickstart.yaml
    """


def main(args: Sequence[str] | None = None) -> None:
    """The console script. What the user can mend ends with one sentence and exit code 2."""
    try:
        cli.main(args=args, prog_name="ltm-platform", standalone_mode=False)
    except UserError as error:
        _fail(str(error), 2)
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _fail("stopped", 130)


def _fail(message: str, code: int) -> None:
    click.echo(message, err=True)
    sys.exit(code)
