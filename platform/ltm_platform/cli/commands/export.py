"""``ltm-platform export``: a trained network as a file, or a folder, for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import click

from ltm_platform.cli import options

Form = Literal["onnx", "pt2", "safetensors", "folder"]
FORMATS: tuple[Form, ...] = get_args(Form)


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
    Image size, normalisation, classes and the job are in the file's metadata. A folder is one that
    timm and Hugging Face know, with config.json and model.safetensors.

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
    files = made.file.iterdir() if made.file.is_dir() else [made.file]
    megabytes = sum(file.stat().st_size for file in files) / 1e6
    click.echo(
        f"{locations.shown(made.file)}: {megabytes:.1f} MB, {made.weights}, "
        f"images [B, 3, {size}, {size}] -> logits [B, {made.classes}], "
        f"equal to the trained network within {made.difference:.1g} of its largest logit"
    )
