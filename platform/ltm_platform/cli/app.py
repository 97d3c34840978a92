"""The entry of the command line: finds the subcommand, and turns errors into exit codes."""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
from typing import TYPE_CHECKING, NoReturn

import click

from ltm.errors import PluginError
from ltm_platform import __version__
from ltm_platform.cli.group import Group
from ltm_platform.errors import RunError, UserError, readable
from ltm_platform.interrupts import no_interrupt_lost
from ltm_platform.temporary import temporary_root

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAM = "ltm-platform"
COMMANDS = (
    "new",
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
    "analyse",
    "export",
    "reconcile",
    "rm",
    "ui",
    "models",
    "jobs",
    "data",
    "cluster",
    "doctor",
    "completion",
)


_NOT_TO_BE_WRITTEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)
_THIS_MACHINE = ("127.0.0.1", "localhost", "::1")


class _Commands(Group):
    """Loads a command's module when it is used."""

    def list_commands(self, _: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        return importlib.import_module(f"ltm_platform.cli.commands.{name}").command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name=PROGRAM)
def cli() -> None:
    """Train efficient vision transformers with Learnable Token Merging.

    \b
    Example:
      ltm-platform submit jobs/quickstart.yaml
    """


def main(args: Sequence[str] | None = None) -> None:
    """The console script; nothing else ends the process.

    Exit codes: 2 for what the user can correct, 1 for a run that broke, 130 for one that was
    stopped; a command that has itself printed what happened ends with `click.exceptions.Exit`.
    """
    _bypass_proxy()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what a terminal cannot show is escaped
            stream.reconfigure(errors="backslashreplace")
    try:
        with no_interrupt_lost():
            temporary_root()  # before a library asks where that is
            code = cli.main(args=args, prog_name=PROGRAM, standalone_mode=False)
    except (UserError, PluginError) as error:
        _fail(readable(str(error)), 2)
    except RunError as error:
        _fail(_failure(error), 1)
    except OSError as error:
        if error.errno not in _NOT_TO_BE_WRITTEN or not error.filename:
            raise
        _fail(f"{error.filename} cannot be read or written: {error.strerror}", 2)
    except click.ClickException as error:
        _fail(readable(error.format_message()), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _fail("stopped", 130)
    if code:
        sys.exit(code)


def _bypass_proxy() -> None:
    """What runs on this machine is asked directly, by this process and those that it starts."""
    for name in ("no_proxy", "NO_PROXY"):
        given = [host for host in os.environ.get(name, "").split(",") if host]
        os.environ[name] = ",".join(dict.fromkeys([*given, *_THIS_MACHINE]))


def _failure(error: RunError) -> str:
    from ltm_platform.storage import locations

    log = f"\nthe log is {locations.shown(error.log)}" if error.log else ""
    return f"failed: {error}{log}"


def _fail(message: str, code: int) -> NoReturn:
    click.echo(message, err=True)
    sys.exit(code)
