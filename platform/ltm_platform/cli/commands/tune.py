"""``ltm-platform tune``: train a job many times with other values of some of its fields."""

from __future__ import annotations

from typing import Any

import click

from ltm_platform.cli import options


@click.command("tune")
@click.option(
    "--param",
    "params",
    metavar="NAME[=VALUES]",
    multiple=True,
    help="What varies: compression_ratio, ib_weight, ib_warmup, ib_beta, lr, weight_decay, "
    "drop_path, keep_ratios or any field of the job. VALUES is LOW:HIGH, log:LOW:HIGH, "
    "choice:A,B or grid:A,B; may be given several times.",
)
@click.option("--job", default="quickstart", show_default=True, help="The job file to tune.")
@options.overrides
@click.option(
    "--objective",
    "objectives",
    metavar="METRIC[:max|min]",
    multiple=True,
    help="What is best: val/top1 if left out. Several look for the best trade-offs.",
)
@click.option("--search", metavar="optuna|random|grid", help="How values are chosen.")
@click.option("--trials", type=int, help="How many; 8 if left out, and of a grid all.")
@click.option(
    "--scheduler",
    metavar="none|asha|median",
    default="none",
    show_default=True,
    help="Stop trials early that are worse than others.",
)
@click.option("--grace", type=int, default=1, show_default=True, help="Epochs before that.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the search.")
@click.option(
    "--protocol",
    metavar="published",
    help="Tune ib_weight, then ib_warmup, by 5-fold cross-validation on 10 % of the training set.",
)
@click.option("--name", help="Name of the sweep; <job name>-sweep-<number> if left out.")
@options.address
@click.option("--detach", is_flag=True, help="Return once a cluster has taken the sweep.")
@options.verbose
def command(
    params: tuple[str, ...],
    job: str,
    overrides: tuple[str, ...],
    objectives: tuple[str, ...],
    search: str | None,
    trials: int | None,
    scheduler: str,
    grace: int,
    seed: int,
    protocol: str | None,
    name: str | None,
    address: str | None,
    detach: bool,
    verbose: bool,
) -> None:
    """Find the best values of fields of a job, in trials that run side by side.

    A trial has one worker, whatever the job says; --set cluster.workers=4 gives it more.

    \b
    Example:
      ltm-platform tune --param compression_ratio
      ltm-platform tune --job jobs/quickstart.yaml --param lr --param ib_weight --scheduler asha
      ltm-platform tune --param model.method=grid:none,ltm,tome --set recipe.epochs=4
    """
    from ltm_platform import api
    from ltm_platform.cli.screen.console import dimmed, long_searches, uncaptured
    from ltm_platform.errors import UserError
    from ltm_platform.job import JobSpec

    spec = JobSpec.load(job, overrides)
    settings: dict[str, Any] = {
        "objectives": objectives,
        "search": search,
        "trials": trials,
        "scheduler": scheduler,
        "grace": grace,
        "seed": seed,
        "protocol": protocol,
        "name": name,
        "address": address,
    }
    if api.goes_to_cluster(spec, address):
        from ltm_platform.cli.screen.cluster import follow_run

        sent = api.tune(spec, params, wait=False, verbose=verbose, **settings)
        follow_run(sent, detach=detach)
        return
    if detach:
        raise UserError("--detach is for a cluster, but this runs here")
    from ltm_platform.cli.screen.sweep import SweepListener

    with uncaptured() as console, long_searches(console):
        trials_shown = SweepListener(console)
        with trials_shown:
            summary = api.tune(
                spec,
                params,
                listener=trials_shown,
                printed=dimmed(console, verbose=verbose),
                **settings,
            )
        trials_shown.result(summary)
