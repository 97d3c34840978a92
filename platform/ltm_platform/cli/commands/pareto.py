"""``ltm-platform pareto``: one network at many compression ratios."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ltm_platform.cli import options

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ltm_platform.report.pareto import Measurement
    from ltm_platform.tracking import RunRecord

GROUP, GROUP_OF_LAST = "pareto", "pareto_last"
"""Of the metrics, and folder of the artifacts."""


@click.command("pareto")
@options.target
@click.option(
    "--ratio",
    "ratios",
    type=float,
    multiple=True,
    help="A compression ratio in (0, 1]; may be given several times instead of --points.",
)
@click.option(
    "--points",
    type=click.IntRange(min=2),
    default=6,
    show_default=True,
    help="So many ratios, evenly over model.elastic, or from 0.5 to 1 for a run without.",
)
@options.last
@click.option("--data", metavar="PATH", help="Other data, as data.path; the run's own if left out.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes, as of evaluate.")
@click.option(
    "--out", metavar="FILE", type=click.Path(path_type=Path), help="A copy of the picture."
)
@click.option(
    "--json", "as_json", is_flag=True, help="An object: the curve of each of the weights."
)
@options.tracking_uri
@options.verbose
def command(
    target: str,
    ratios: tuple[float, ...],
    points: int,
    last: bool,
    data: str | None,
    workers: int | None,
    out: Path | None,
    as_json: bool,
    tracking_uri: str | None,
    verbose: bool,
) -> None:
    """Measure one checkpoint at many compression ratios and log the curve to its run in MLflow.

    There it is the metrics pareto/..., whose step is the ratio in permille, and the artifacts
    pareto/curve.png and curve.json; with --last, pareto_last/... The curve of other weights than
    the first, after a resume perhaps, is pareto_2/...

    \b
    Example:
      ltm-platform pareto quickstart-1 --points 11
    """
    from ltm_platform.cli.scoring import scores_of
    from ltm_platform.inference.evaluate import prepare
    from ltm_platform.ray_cluster.embedded import this_machine
    from ltm_platform.report import pareto
    from ltm_platform.report.figures import check_picture, pareto_figure, save
    from ltm_platform.runs.checkpoint_lookup import find_checkpoint, run_of
    from ltm_platform.storage import locations
    from ltm_platform.storage.manifest import job_of

    if out is not None:
        check_picture(out, "--out")
    checkpoint = find_checkpoint(target, last=last, uri=tracking_uri)
    wanted = ratios or pareto.ratios(job_of(checkpoint).model.elastic, points)
    evaluation = prepare(
        checkpoint,
        data=data,
        ratios=wanted,
        workers=workers,
        resources=this_machine(),
    )
    scores = scores_of(evaluation, log_name="pareto.log", verbose=verbose)
    curves = pareto.curves(scores)
    # On other data it is no property of the run.
    record = run_of(checkpoint, tracking_uri) if data is None else None
    if as_json:
        text = {kind: [asdict(one) for one in curve] for kind, curve in curves.items()}
        click.echo(json.dumps(text, indent=2))
    else:
        _print_table(curves, f"{checkpoint.name} on {evaluation.dataset.name}")
    lines = []
    if record is not None:
        group = GROUP_OF_LAST if last else GROUP
        lines.append(_log(curves, record, tracking_uri, group, checkpoint))
    if out is not None:
        save(pareto_figure(record.name if record else checkpoint.name, curves), out)
        lines.append(f"plot: {locations.shown(out)}")
    for line in lines:
        click.echo(line, err=as_json)


def _log(
    curves: Mapping[str, Sequence[Measurement]],
    record: RunRecord,
    uri: str | None,
    group: str,
    checkpoint: Path,
) -> str:
    """Log the curve of a checkpoint to its run; a line that says where it is."""
    from ltm_platform import tracking
    from ltm_platform.report import pareto
    from ltm_platform.report.figures import pareto_figure, save
    from ltm_platform.runs.checkpoint_lookup import original_name
    from ltm_platform.storage import locations

    store = tracking.tracking_uri(uri)
    with tempfile.TemporaryDirectory(prefix="ltm-pareto-") as folder:
        picture, text = Path(folder) / "curve.png", Path(folder) / "curve.json"
        save(pareto_figure(record.name, curves), picture)
        text.write_text(
            json.dumps({kind: [asdict(one) for one in curve] for kind, curve in curves.items()})
        )
        own = tracking.add_curve(
            store,
            record.run_id,
            pareto.metrics(curves),
            [picture, text],
            group,
            original_name(checkpoint, record),
        )
    return f"logged to {record.name} in {locations.shown(store)}: metrics and artifacts {own}/"


def _print_table(curves: Mapping[str, Sequence[Measurement]], title: str) -> None:
    from ltm_platform.cli.screen.console import plain_table, results

    head = ("weights", "ratio", "GMACs", "top-1 %", "top-5 %", "loss", "on the front")
    table = plain_table(*head, title=title)
    for kind, curve in curves.items():
        for one in curve:
            table.add_row(
                kind,
                f"{one.ratio:g}",
                f"{one.gmacs:.3g}",
                f"{one.top1:.2f}",
                f"{one.top5:.2f}",
                f"{one.loss:.4f}",
                "yes" if one.best else "",
            )
    results().print(table)
