"""``ltm-platform export``: a trained network as a file for other programs."""

from __future__ import annotations

from pathlib import Path

import click

from ltm_platform.cli import options

FORMATS = ("onnx", "pt2", "safetensors")


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
    import tempfile

    from ltm_platform.cli.screen.capture import captured_output
    from ltm_platform.errors import RunError
    from ltm_platform.runs.checkpoint_lookup import find_checkpoint
    from ltm_platform.storage import locations
    from ltm_platform.storage.files import check_writable

    checkpoint = find_checkpoint(target, last=last, uri=tracking_uri)
    path = out or Path(f"{Path(target).name}.{form}")
    check_writable(path, "--out")
    from ltm_platform.inference.export import FORMATS as KNOWN
    from ltm_platform.inference.export import export
    from ltm_platform.inference.trained_network import load_network

    network = load_network(checkpoint, ema=ema, ratio=ratio)
    chosen = next(known for known in KNOWN if known == form)
    try:
        with (
            tempfile.NamedTemporaryFile(prefix="ltm-export-") as log,
            captured_output(Path(log.name), echo=verbose),
        ):
            difference = export(network, chosen, path)
    except RunError as error:
        click.echo(f"failed: {error}", err=True)
        raise SystemExit(1) from None
    size = network.pixels.size
    click.echo(
        f"{locations.shown(path)}: {path.stat().st_size / 1e6:.1f} MB, {network.weights}, "
        f"images [B, 3, {size}, {size}] -> logits [B, {len(network.classes)}], "
        f"equal to the trained network within {difference:.1g} of its largest logit"
    )
