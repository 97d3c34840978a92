"""``ltm-platform data``: make shards of images, verify them, look at them."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from ltm_platform.cli.group import Group
from ltm_platform.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_QUALITY = 90

_processes = click.option(
    "--processes",
    type=click.IntRange(min=1),
    help="How many processes work at once; one a CPU if left out.",
)


@click.group("data", cls=Group)
def command() -> None:
    """Make shards of your images, verify them, look at them.

    \b
    Example:
      ltm-platform data import /data/imagenet /data/imagenet-shards
    """


@command.command("import")
@click.argument("source")
@click.argument("destination", metavar="DEST")
@click.option(
    "--val-fraction",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.2,
    show_default=True,
    help="Share for validation if SOURCE has no part for it.",
)
@click.option(
    "--allow-bad",
    type=click.FloatRange(0, 1),
    default=0.01,
    show_default=True,
    help="Share of the images that may be unreadable; they are left out and reported.",
)
@click.option(
    "--short-side",
    type=click.IntRange(32, 8192),
    help="Store larger pictures with a shorter side of so many pixels, as JPEG.",
)
@click.option(
    "--quality",
    type=click.IntRange(1, 100),
    help="Of those JPEGs; 90 if left out.",
)
@click.option(
    "--labels-of",
    metavar="NETWORK",
    help="Images without labels: each has the class that a run, a checkpoint or a network of timm "
    "gives it.",
)
@_processes
def import_(
    source: str,
    destination: str,
    val_fraction: float,
    allow_bad: float,
    short_side: int | None,
    quality: int | None,
    labels_of: str | None,
    processes: int | None,
) -> None:
    """Make Parquet shards of SOURCE in the folder DEST.

    SOURCE is a folder of train/<class>/*.jpg and val/<class>/*.jpg (or <class>/*.jpg alone), a
    tar of one, or a Parquet file or folder as Hugging Face publishes images. Both may be paths or
    addresses such as s3://bucket/folder. Stopped half-way, the same command goes on.

    \b
    Example:
      ltm-platform data import /data/imagenet /data/imagenet-shards
      ltm-platform data import images.tar s3://bucket/images --allow-bad 0.05
      ltm-platform data import /data/imagenet /data/imagenet-256 --short-side 256
      ltm-platform data import photographs/ shards --labels-of my-run
    """
    from ltm_platform import api
    from ltm_platform.data.importing import import_images
    from ltm_platform.data.importing.smaller import Smaller

    if quality is not None and short_side is None:
        raise UserError(
            f"--quality {quality} is that of pictures that --short-side makes smaller: give both."
        )
    smaller = Smaller(short_side, quality or _QUALITY) if short_side else None

    labeller = api.labels_of(labels_of) if labels_of else None
    with _progress("images") as listener:
        made = import_images(
            source,
            destination,
            val_fraction=val_fraction,
            allow_bad=allow_bad,
            processes=processes or _cpus(),
            smaller=smaller,
            labeller=labeller,
            listener=listener,
        )
    counts = " and ".join(
        f"{count:,} {'training' if split == 'train' else 'validation'}"
        for split, count in made.images.items()
    )
    click.echo(f"{destination}: {counts} images, {len(made.classes):,} classes")
    if made.skipped:
        what = "image was" if made.skipped == 1 else "images were"
        click.echo(f"{made.skipped:,} {what} left out, see {made.report}")
    if smaller:
        click.echo(
            f"larger pictures were stored with a shorter side of {smaller.short_side} pixels, as "
            f"JPEG of quality {smaller.quality}: training and validation see other pixels than of "
            f"the originals, upright ones, and of the crops all of less than "
            f"{min(1, 224 / smaller.short_side):.0%} of the shorter side are "
            "made larger at 224 pixels; the report and every shard note it"
        )
    if labeller:
        click.echo(
            f"labels are what {labeller.name} decides: top-1 on them is the share of images on "
            "which a network agrees with it"
        )
    for notice in made.notices:
        click.echo(notice)


@command.command("check")
@click.argument("path")
@click.option("--decode-all", is_flag=True, help="Of shards decode every image, not one in 20.")
@_processes
def check(path: str, decode_all: bool, processes: int | None) -> None:
    """Verify the shards in PATH: seals, checksums, places, and that images can be decoded.

    PATH may be a folder of images, too: then every image is decoded.

    \b
    Example:
      ltm-platform data check /data/imagenet-shards
    """
    from ltm_platform.data.inspection import check_data

    with _progress("checked") as listener:
        checked = check_data(
            path, decode_all=decode_all, processes=processes or _cpus(), listener=listener
        )
    if checked.problems:
        raise UserError("\n".join(checked.problems))
    if checked.shards is None:
        click.echo(f"{path}: {checked.images:,} images are in order, all of them were decoded")
        for notice in checked.notices:
            click.echo(notice)
        return
    click.echo(
        f"{path}: {checked.images:,} images in {checked.shards:,} shards are in order; "
        f"{checked.decoded:,} of them were decoded"
    )


@command.command("show")
@click.argument("path")
@click.option("--sheet", metavar="FILE", help="Write a contact sheet there, e.g. sheet.png.")
@click.option("--all", "every", is_flag=True, help="List every class instead of the first 20.")
def show(path: str, sheet: str | None, every: bool) -> None:
    """Print the classes of the data set in PATH and how many images each has.

    \b
    Example:
      ltm-platform data show /data/imagenet-shards --sheet sheet.png
    """
    import numpy as np
    from rich.console import Console

    from ltm_platform.cli.screen.console import plain_table
    from ltm_platform.data import open_dataset
    from ltm_platform.data.sources import reach_store
    from ltm_platform.storage import locations

    reach_store(path, "PATH")
    dataset = open_dataset(path, cache=locations.cache(), val_fraction=0.2)
    counts = [
        np.bincount(part.labels, minlength=len(dataset.classes))
        for part in (dataset.train, dataset.val)
    ]
    table = plain_table("class", "training", "validation")
    shown = len(dataset.classes) if every else 20
    for name, *row in list(zip(dataset.classes, *counts, strict=True))[:shown]:
        table.add_row(name, *(f"{count:,}" for count in row))
    console = Console(markup=False, highlight=False)
    console.print(table)
    if len(dataset.classes) > shown:
        console.print(f"and {len(dataset.classes) - shown:,} more; --all lists them")
    for sentence in (dataset.describe(), *dataset.notices):
        console.print(sentence, soft_wrap=True)
    if sheet:
        from ltm_platform.data.inspection import contact_sheet

        try:
            contact_sheet(dataset.train).save(sheet)
        except (OSError, ValueError) as error:
            raise UserError(f"--sheet {sheet} cannot be written: {error}.") from error
        console.print(f"contact sheet: {sheet}", soft_wrap=True)


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _progress(unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar in a terminal, nothing elsewhere."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    with bar:
        task = bar.add_task("listing", total=None)
        yield lambda done, total: bar.update(
            task,
            description="writing" if unit == "images" else "reading",
            completed=done,
            total=total,
        )
