"""``ltm-platform analyse``: what networks do with the tokens of the same images."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ltm_platform.cli import options

if TYPE_CHECKING:
    from ltm_platform.inference.analysis import Analysis, Network


@click.command("analyse")
@click.argument("targets", metavar="RUN|CHECKPOINT...", nargs=-1, required=True)
@click.option(
    "--images",
    type=click.IntRange(min=4),
    default=64,
    show_default=True,
    help="So many, the first of the validation set.",
)
@options.ema
@options.ratio
@options.last
@click.option(
    "--data",
    metavar="PATH",
    help="Other images, as data.path, of which nothing is logged; the runs' own if left out.",
)
@click.option(
    "--out",
    metavar="FOLDER",
    type=click.Path(path_type=Path, file_okay=False),
    help="Put a copy of the page and the tables there.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="An object: the networks, and their likenesses."
)
@options.tracking_uri
def command(
    targets: tuple[str, ...],
    images: int,
    ema: bool,
    ratio: float | None,
    last: bool,
    data: str | None,
    out: Path | None,
    as_json: bool,
    tracking_uri: str | None,
) -> None:
    """Show which tokens networks keep, merge and drop, how deep each survives, and how alike two
    networks are in that and in their features.

    Logged to each run in MLflow as the artifacts analysis/: a page of pictures, analysis.png;
    tokens.parquet, a row a token; and pairs.parquet, a row a pair of networks.

    \b
    Example:
      ltm-platform analyse tome-1 ltm-1 topk-1 --out analysis
    """
    from ltm_platform import api
    from ltm_platform.cli.screen.console import printing
    from ltm_platform.storage import locations

    with printing(verbose=False):
        found = api.analyse(
            targets,
            images=images,
            ema=ema,
            ratio=ratio,
            last=last,
            data=data,
            out=out,
            tracking_uri=tracking_uri,
        )
    if as_json:
        click.echo(json.dumps(_as_dict(found.analysis), indent=2))
    else:
        _print_tables(found.analysis, f"{len(found.analysis.images):,} images of {found.data}")
    if found.runs:
        where = f"{', '.join(found.runs)} in {locations.shown(found.tracking_uri)}"
        click.echo(f"logged to {where}: artifacts {found.artifacts}/", err=as_json)
    for file in found.files:
        click.echo(locations.shown(file), err=as_json)


def _as_dict(analysis: Analysis) -> dict:
    return {
        "images": list(analysis.images),
        "networks": [_row(one) for one in analysis.networks],
        "likenesses": [asdict(one) for one in analysis.likenesses],
    }


def _row(network: Network) -> dict:
    return {
        "run": network.name,
        "method": network.method,
        "places": network.places,
        "depth": network.mean_depth(),
        "shares": network.shares(),
    }


def _print_tables(analysis: Analysis, title: str) -> None:
    from ltm.views.analysis import FATES
    from ltm_platform.cli.screen.console import plain_table, results

    head = ("run", "method", "kept %", "merged %", "dropped %", "depth", "of")
    table = plain_table(*head, title=title, texts=2)
    for network in analysis.networks:
        shares = network.shares() or {}
        table.add_row(
            network.name,
            network.method,
            *(_number(100 * shares[one] if one in shares else None, 1) for one in FATES),
            _number(network.mean_depth(), 2),
            str(network.places) if shares else "",
        )
    results().print(table)
    if analysis.likenesses:
        pairs = plain_table("run", "other", "IoU", "NMI", "CKA", texts=2)
        for one in analysis.likenesses:
            pairs.add_row(one.run, one.other, *(_number(x, 3) for x in (one.iou, one.nmi, one.cka)))
        results().print(pairs)


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
