"""Measure stored weights on Ray's workers: what ``evaluate`` and ``pareto`` have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ltm_platform.cli.screen.capture import captured_output
from ltm_platform.errors import RunError
from ltm_platform.inference.evaluate import carry_out
from ltm_platform.ray_cluster.embedded import embedded_ray, this_machine
from ltm_platform.storage import locations

if TYPE_CHECKING:
    from ltm_platform.inference.evaluate import Evaluation, Score


def scores_of(evaluation: Evaluation, *, log_name: str, verbose: bool) -> list[Score]:
    """Carry it out with a calm screen; when a rank fails, say why and exit with 1."""
    locations.home().mkdir(parents=True, exist_ok=True)
    log = locations.home() / log_name
    try:
        with captured_output(log, echo=verbose), embedded_ray(this_machine()):
            return carry_out(evaluation)
    except RunError as error:
        click.echo(f"failed: {error}\nthe log is {locations.shown(log)}", err=True)
        raise SystemExit(1) from None
