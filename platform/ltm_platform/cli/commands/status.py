"""``ltm-platform status``: how a run stands."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click

from ltm_platform.cli import options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ltm_platform.api import Status


@click.command("status")
@options.run
@click.option("--json", "as_json", is_flag=True, help="An object.")
@options.address
@options.tracking_uri
def command(run: str, as_json: bool, address: str | None, tracking_uri: str | None) -> None:
    """Show how RUN, a run's name, stands, here or on a cluster, and what to type next.

    \b
    Example:
      ltm-platform status quickstart-1
    """
    from ltm_platform import api
    from ltm_platform.cli.program import program

    found = api.status(run, address=address, tracking_uri=tracking_uri)
    view = _recorded(found) if found.begun else _waiting(found)
    if as_json:
        click.echo(json.dumps(view.values, indent=2))
        return
    click.echo(run)
    for key, value in view.rows.items():
        if value:
            click.echo(f"  {key:<9} {value}")
    if view.following:
        click.echo(f"  {'next':<9} {shlex.join([*program(), *view.following, run])}")


@dataclass(frozen=True, slots=True)
class _View:
    """What is shown of a run."""

    values: Mapping[str, object]
    """As JSON."""
    rows: Mapping[str, str]
    following: tuple[str, ...]
    """The command to type next, of the run."""


def _waiting(found: Status) -> _View:
    """A run that a cluster was sent and that nothing is recorded of."""
    about = found.summary
    rows = {"state": about.state, "where": about.where, "error": about.error or ""}
    ended = about.state in ("SUCCEEDED", "FAILED", "STOPPED")
    following: tuple[str, ...] = ("logs",) if ended else ("logs", "-f")
    done = about.state == "SUCCEEDED"
    return _View({"name": about.name} | rows, rows, () if done else following)


def _recorded(found: Status) -> _View:
    from ltm_platform.cli.screen.console import duration

    about = found.summary
    rows = {
        "state": about.state,
        "waits for": found.waits_for,
        "epoch": about.epoch,
        "top-1": "" if about.top1 is None else f"{about.top1:.2f} %",
        "images/s": "" if about.images_per_s is None else f"{about.images_per_s:,.0f}",
        "workers": "" if about.workers is None else str(about.workers),
        "restarts": str(about.restarts),
        "age": duration(about.age_s),
        "where": about.where,
        "folder": found.folder,
        "error": about.error or "",
    }
    goes_on = about.state in ("RUNNING", "WAITING")
    following: tuple[str, ...] = ("logs", "-f") if goes_on else ("resume",)
    return _View(asdict(about), rows, () if about.state == "FINISHED" else following)
