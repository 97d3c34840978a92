"""``ltm-platform predict``: the classes of images."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ltm_platform.cli import options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ltm_platform.inference.predict import Drawn, Prediction


@click.command("predict")
@options.target
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@click.option(
    "--top", type=click.IntRange(min=1), default=5, show_default=True, help="Classes an image."
)
@click.option(
    "--heatmap",
    "folder",
    metavar="FOLDER",
    type=click.Path(path_type=Path, file_okay=False),
    help="Draw there, for every image, which of its tokens were merged into one.",
)
@click.option(
    "--token",
    metavar="ROW COLUMN",
    type=(int, int),
    help="The token of the heatmap, in the grid of patches; the image's centre if left out.",
)
@options.ema
@options.ratio
@options.last
@click.option("--json", "as_json", is_flag=True, help="A list of objects, one an image.")
@options.tracking_uri
def command(
    target: str,
    images: tuple[str, ...],
    top: int,
    folder: Path | None,
    token: tuple[int, int] | None,
    ema: bool,
    ratio: float | None,
    last: bool,
    as_json: bool,
    tracking_uri: str | None,
) -> None:
    """Say what is in each IMAGE, by the network of a run or of a checkpoint's folder.

    \b
    Example:
      ltm-platform predict quickstart-1 seven.png --heatmap heatmaps
    """
    from ltm_platform import api

    found = api.predict(
        target,
        images,
        top=top,
        heatmaps=folder,
        token=token,
        ema=ema,
        ratio=ratio,
        last=last,
        tracking_uri=tracking_uri,
    )
    if as_json:
        click.echo(json.dumps(_as_dicts(found.predictions, found.heatmaps), indent=2))
    else:
        _print_table(found.predictions, found.heatmaps)


def _as_dicts(predictions: Sequence[Prediction], drawn: Sequence[Drawn]) -> list[dict]:
    rows = [asdict(prediction) for prediction in predictions]
    for row, one in zip(rows, drawn, strict=False):
        row["heatmap"] = str(one.path)
        row["merged_tokens"] = one.sources
    return rows


def _print_table(predictions: Sequence[Prediction], drawn: Sequence[Drawn]) -> None:
    from ltm_platform.cli.screen.console import plain_table, results

    table = plain_table("image", "class", "probability", texts=2)
    for prediction in predictions:
        for position, guess in enumerate(prediction.guesses):
            image = "" if position else prediction.image
            table.add_row(image, guess.label, f"{100 * guess.probability:.1f} %")
    results().print(table)
    for one in drawn:
        tokens = "token" if one.sources == 1 else "tokens"
        click.echo(f"{one.path}: {one.sources} {tokens} merged into the framed one")
