"""``ltm-platform models``: what networks cost beside the published figures; what methods fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import ltm


@click.command("models")
@click.option(
    "--methods", is_flag=True, help="Which method runs on which family, and whether as published."
)
@click.option(
    "--backbones", is_flag=True, help="One backbone of every kind, and what LTM's plan costs there."
)
def command(methods: bool, backbones: bool) -> None:
    """Print parameters and GMACs of every published network, ours beside the paper's.

    \b
    Example:
      ltm-platform models
      ltm-platform models --methods
      ltm-platform models --backbones
    """
    if methods:
        _print_methods()
    if backbones:
        _print_backbones()
    if not (methods or backbones):
        _print_networks()


def _print_methods() -> None:
    from ltm.catalogue.fits import FAMILIES, all_fits
    from ltm_platform.cli.screen.console import plain_table, results

    fits, families = all_fits(), len(FAMILIES)
    rows = [fits[first : first + families] for first in range(0, len(fits), families)]
    table = plain_table(
        *("method", *FAMILIES),
        caption="published: as in the paper. ours: the paper says nothing of grids; tokens leave "
        "within rows, then within columns, or heads and units as on a ViT. refused, and why:",
        texts=1 + families,
    )
    for row in rows:
        table.add_row(row[0].method, *(one.rule for one in row))
    results().print(table)
    for row in rows:
        why = next((one.why for one in row if one.rule == "refused"), None)
        if why:
            results().print(f"{row[0].method}: {why}", highlight=False)


def _print_backbones() -> None:
    import ltm
    from ltm.catalogue.kinds import kinds
    from ltm_platform.cli.screen.console import plain_table, results

    table = plain_table(
        *("kind", "for example", "pixels", "params M", "GMACs", "with ltm"),
        caption=f"{len(ltm.list_backbones())} backbones of timm can merge; "
        "ltm.list_backbones() names all of them.",
        texts=2,
    )
    for kind in kinds():
        table.add_row(
            *(kind.name, kind.backbone, str(kind.image_size)),
            *(f"{x:.2f}" for x in (kind.base.params_m, kind.base.gmacs, kind.merged.gmacs)),
        )
    results().print(table)


def _print_networks() -> None:
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
