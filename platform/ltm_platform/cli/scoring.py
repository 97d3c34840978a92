"""Measure stored weights on Ray's workers: what ``evaluate`` and ``pareto`` have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ltm_platform import paths
from ltm_platform.cli.capture import captured_output
from ltm_platform.errors import RunError
from ltm_platform.launch.embedded import embedded_ray, this_machine
from ltm_platform.launch.evaluation import carry_out

if TYPE_CHECKING:
    from ltm_platform.launch.evaluation import Evaluation, Score


def scores_of(evaluation: Evaluation, *, log_name: str, verbose: bool) -> list[Score]:
    """Carry it out with a calm screen; when a rank fails, say why and exit with 1."""
    paths.home().mkdir(parents=True, exist_ok=True)
    log = paths.home() / log_name
    try:
        with captured_output(log, echo=verbose), embedded_ray(this_machine()):
            return carry_out(evaluation)
    except RunError as error:
        click.echo(f"failed: {error}\nthe log is {paths.shown(log)}", err=True)
        raise SystemExit(1) from None
