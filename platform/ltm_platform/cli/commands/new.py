"""``ltm-platform new``: a job file after three questions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TypeVar

import click

Answer = TypeVar("Answer", str, float)


@click.command("new")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--data", metavar="PATH", help="Folder of images, shards, or digits to try it.")
@click.option("--backbone", metavar="NAME", help="A network of 'ltm-platform models --backbones'.")
@click.option("--ratio", type=float, help="Fraction of the tokens to keep, in (0, 1].")
@click.option("--target-gmacs", type=float, help="Instead: a budget in 1e9 MACs an image.")
def command(
    file: Path,
    data: str | None,
    backbone: str | None,
    ratio: float | None,
    target_gmacs: float | None,
) -> None:
    """Write a commented job FILE. What no option says is asked: data, network and budget.

    \b
    Example:
      ltm-platform new my.yaml --data digits --backbone vit_nano_patch4_32 --ratio 0.7
    """
    from ltm_platform import api
    from ltm_platform.api.new_job import DEFAULT_RATIO

    if data is None:
        data = _asked("Where are the images (a folder, shards, or digits to try it)?", "--data")
    if backbone is None:
        backbone = _asked("Which network?", "--backbone", "vit_small_patch16_224")
    if ratio is None and target_gmacs is None:
        ratio = _asked("Which fraction of the tokens is kept?", "--ratio", DEFAULT_RATIO)
    path = api.new_job(
        file, data=data, backbone=backbone, compression_ratio=ratio, target_gmacs=target_gmacs
    )
    click.echo(f"wrote {path}; next: ltm-platform submit {path} --smoke")


def _asked(question: str, option: str, default: Answer | None = None) -> Answer:
    """The answer, of the default's type."""
    from ltm_platform.errors import UserError

    if not sys.stdin.isatty():
        raise UserError(f"{option} is not given, and there is no terminal to ask at")
    answer: Answer = click.prompt(question, default=default)
    return answer
