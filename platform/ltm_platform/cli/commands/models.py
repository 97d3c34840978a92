"""``ltm-platform models``: what the networks cost, beside the published figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import ltm


@click.command("models")
def command() -> None:
    """Print parameters and GMACs of every published network, ours beside the paper's.

    \b
    Example:
      ltm-platform models
    """
    import ltm
    from ltm_platform.cli.screen.console import plain_table, results

    table = plain_table(
        *("backbone", "pixels", "method", "params M", "paper"),
        *("GMACs", "without attention matmuls", "paper"),
        caption="1 GMAC is 1e9 multiply-accumulates for one image; "
        "the paper mixes both ways of counting, * marks the one it used.",
        texts=3,
    )
    for published, base, merged in ltm.table():
        table.add_row(*_cells(published, "none", base, published.base_gmacs))
        table.add_row(*_cells(published, "ltm", merged, published.gmacs))
    results().print(table)


def _cells(
    published: ltm.Published, method: str, cost: ltm.Count, paper_gmacs: float
) -> tuple[str, ...]:
    with_mark, without_mark = ("*", " ") if published.with_attention else (" ", "*")
    return (
        published.backbone,
        str(published.image_size),
        method,
        f"{cost.params_m:.2f}",
        f"{published.params_m:g}",
        f"{cost.gmacs:.3f}{with_mark}",
        f"{cost.gmacs_no_attention_matmul:.3f}{without_mark}",
        f"{paper_gmacs:g}",
    )
