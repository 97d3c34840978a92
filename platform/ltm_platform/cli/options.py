"""Arguments that several commands share."""

from __future__ import annotations

from pathlib import Path

import click


def _jobs(_: click.Context, __: click.Parameter, text: str) -> list[str]:
    """Bundled jobs, job files and folders that begin so."""
    from ltm_platform.job.load import bundled_folder

    names = sorted(file.stem for file in bundled_folder().glob("*.yaml"))
    paths = sorted(Path().glob(f"{text}*")) if not Path(text).is_absolute() else []
    files = [str(path) for path in paths if path.suffix in (".yaml", ".yml")]
    folders = [f"{path}/" for path in paths if path.is_dir()]
    return [*(name for name in names if name.startswith(text)), *files, *folders]


def _runs(_: click.Context, __: click.Parameter, text: str) -> list[str]:
    """Runs of this machine that begin so; no store is asked, which would take too long."""
    from ltm_platform.storage import locations

    return sorted(path.name for path in locations.runs().glob(f"{text}*") if path.is_dir())


job = click.argument("job", metavar="JOB", shell_complete=_jobs)
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
run = click.argument("run", metavar="RUN", shell_complete=_runs)
runs = click.argument("runs", metavar="RUN...", nargs=-1, required=True, shell_complete=_runs)
tracking_uri = click.option(
    "--tracking-uri",
    metavar="URI",
    help="The MLflow store; MLFLOW_TRACKING_URI or this user's own store if left out.",
)
target = click.argument("target", metavar="RUN|CHECKPOINT", shell_complete=_runs)
last = click.option("--last", is_flag=True, help="The run's last checkpoint instead of its best.")
ema = click.option("--ema", is_flag=True, help="The moving average of the weights instead of them.")
ratio = click.option(
    "--ratio", type=float, help="A compression ratio in (0, 1]; the run's own if left out."
)
