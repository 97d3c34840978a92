"""``ltm-platform export``: a trained network as a file for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from ltm_platform.cli import options

FORMATS: tuple[Literal["onnx", "pt2", "safetensors"], ...] = ("onnx", "pt2", "safetensors")


@click.command("export")
@options.target
@click.option("--format", "form", type=click.Choice(FORMATS), required=True, help="What to write.")
@click.option(
    "--out",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Where to; RUN.FORMAT in this folder if left out.",
)
@options.ema
@options.ratio
@options.last
@options.tracking_uri
@options.verbose
def command(
    target: str,
    form: str,
    out: Path | None,
    ema: bool,
    ratio: float | None,
    last: bool,
    tracking_uri: str | None,
    verbose: bool,
) -> None:
    """Write the network of a run, or of a checkpoint's folder, for any batch of images.

    It is read back and compared with the trained one; what does not compute the same is not kept.
    Image size, normalisation, classes and the job are in the file's metadata.

    \b
    Example:
      ltm-platform export quickstart-1 --format onnx --ema
    """
    from ltm_platform import api
    from ltm_platform.cli.screen.console import printing
    from ltm_platform.storage import locations

    with printing(verbose=verbose) as printed:
        made = api.export(
            target,
            next(known for known in FORMATS if known == form),
            out=out,
            ema=ema,
            ratio=ratio,
            last=last,
            tracking_uri=tracking_uri,
            printed=printed,
        )
    size = made.image_size
    click.echo(
        f"{locations.shown(made.file)}: {made.file.stat().st_size / 1e6:.1f} MB, {made.weights}, "
        f"images [B, 3, {size}, {size}] -> logits [B, {made.classes}], "
        f"equal to the trained network within {made.difference:.1g} of its largest logit"
    )
