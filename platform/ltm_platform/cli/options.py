"""Arguments that several commands share."""

from __future__ import annotations

import click

job = click.argument("job", metavar="JOB")
overrides = click.option(
    "--set",
    "overrides",
    metavar="SECTION.KEY=VALUE",
    multiple=True,
    help="Override a field of the job, e.g. --set recipe.epochs=10; may be given several times.",
)
verbose = click.option(
    "-v", "--verbose", is_flag=True, help="Show what Ray, DeepSpeed and torch say."
)
address = click.option(
    "--address",
    metavar="ADDRESS",
    help="The Ray to use: http://HOST:8265 of a cluster, auto for one on this machine, or local "
    "for one of its own; cluster.address, RAY_ADDRESS or 'cluster up --local' if left out.",
)
force = click.option("--force", is_flag=True, help="Start even though a check says it cannot work.")
run = click.argument("run", metavar="RUN")
tracking_uri = click.option(
    "--tracking-uri",
    metavar="URI",
    help="The MLflow store; MLFLOW_TRACKING_URI or this user's own store if left out.",
)
target = click.argument("target", metavar="RUN|CHECKPOINT")
last = click.option("--last", is_flag=True, help="The run's last checkpoint instead of its best.")
ema = click.option("--ema", is_flag=True, help="The moving average of the weights instead of them.")
ratio = click.option(
    "--ratio", type=float, help="A compression ratio in (0, 1]; the run's own if left out."
)
