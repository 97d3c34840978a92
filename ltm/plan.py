"""From a compression ratio, a grid or an explicit plan to the tokens that every site keeps.

A plan names sites as timm names modules, and says what stays there: a number of tokens, or a
grid where the rest of the network needs one.

    {"blocks.0": 157}            ViT: 157 of 196 tokens after the attention of the first block
    {"layers.2": (6, 6)}         Swin: 7 x 7 windows become 6 x 6 at the entry of stage 3

The compression ratio is the kept fraction P/N (arXiv 2407.15219, section 3); 1 keeps everything.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from random import Random
from typing import NamedTuple

Grid = tuple[int, int]
Kept = int | Grid
Plan = Mapping[str, Kept]


class Place(NamedTuple):
    """Where a network may merge: the channels of a token there, and whether a grid must stay."""

    dim: int
    needs_grid: bool


@dataclass(frozen=True)
class Site:
    """A place where tokens merge, as one model with one plan has it.

    name: timm's name of the module that merges, as in the plan.
    dim: channels of a token.
    grid: height and width of the tokens that arrive; None after a merge that keeps no grid.
    tokens: how many tokens arrive.
    kept: how many stay, or the grid that stays.
    tiles: rows and columns of such grids in an image; each merges on its own.
    """

    name: str
    dim: int
    grid: Grid | None
    tokens: int
    kept: Kept
    tiles: Grid = (1, 1)

    @property
    def slots(self) -> int:
        return self.kept if isinstance(self.kept, int) else math.prod(self.kept)


def check_ratio(ratio: float) -> float:
    """The ratio itself, or ValueError when it is not in (0, 1]."""
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio <= 1:
        raise ValueError(f"compression_ratio is {ratio!r}, allowed is a number in (0, 1]")
    return float(ratio)


def elastic_ratio(bounds: tuple[float, float], step: int, seed: int = 0) -> float:
    """A compression ratio for one training step, uniform in `bounds`.

    Training over a range of ratios makes one set of weights serve them all. The ratio depends on
    step and seed alone, so that all ranks of a run merge to the same number of tokens:

        model.set_compression(elastic_ratio((0.5, 1.0), step))
    """
    low, high = (check_ratio(bound) for bound in bounds)
    if low > high:
        raise ValueError(f"elastic is {low} to {high}, allowed is a range from low to high")
    return low + (high - low) * Random(f"{seed}-{step}").random()


def check_names(plan: Plan, allowed: Iterable[str]) -> None:
    """ValueError when a plan names a site that the network does not have."""
    allowed = list(allowed)
    for name in plan:
        if name not in allowed:
            near = get_close_matches(str(name), allowed, n=1) or allowed[:1]
            raise ValueError(
                f"plan names site {name!r}, sites are {allowed[0]} to {allowed[-1]}: "
                f"did you mean {near[0]!r}?"
            )


def kept_tokens(name: str, kept: object, tokens: int) -> int:
    """An entry of a plan for a site without a grid: a whole number in [1, tokens]."""
    if type(kept) is not int or not 1 <= kept <= tokens:
        raise ValueError(
            f"plan keeps {kept!r} tokens at {name}, allowed is a whole number from 1 to {tokens}"
        )
    return kept


def kept_grid(name: str, kept: object, grid: Grid, smallest: Grid = (1, 1)) -> Grid:
    """An entry of a plan for a site on a grid: (rows, columns), or one number for a square."""
    match (kept, kept) if type(kept) is int else kept:
        case [rows, columns] if type(rows) is int and type(columns) is int:
            if smallest[0] <= rows <= grid[0] and smallest[1] <= columns <= grid[1]:
                return rows, columns
    raise ValueError(
        f"plan keeps {kept!r} at {name}, allowed is a grid of rows and columns "
        f"from {smallest[0]} x {smallest[1]} to {grid[0]} x {grid[1]}"
    )


def quarters(places: int) -> set[int]:
    """The numbers of the places at a quarter, a half and three quarters of the depth."""
    return {places // 4, places // 2, 3 * places // 4}


def lost_by_place(spread: str, places: int) -> list[float]:
    """What part of all tokens that leave has left after each place, from above 0 to 1.

    even: the same number at every place. decreasing: linearly less, to none at the last.
    quarters: a third each at a quarter, a half and three quarters of the depth.
    """
    if spread == "quarters":
        shares = [1.0 * (place in quarters(places)) for place in range(places)]
    elif spread == "decreasing" and places > 1:
        shares = [1 - place / (places - 1) for place in range(places)]
    else:
        shares = [1.0] * places
    return [sum(shares[: place + 1]) / sum(shares) for place in range(places)]


def tokens_for_ratio(ratio: float, tokens: int) -> int:
    """Kept tokens nearest to ratio x tokens, at least one."""
    return max(1, round(ratio * tokens))


def grid_for_ratio(ratio: float, grid: Grid, smallest: Grid = (1, 1)) -> Grid:
    """The grid, shrunk evenly, whose area comes nearest to ratio x area.

    Rows and columns shrink by the same factor up to one row or column: 14 x 14 at ratio 0.8 is
    13 x 12. Ties go to the larger grid.
    """
    scale = math.sqrt(ratio)
    around = [
        sorted({min(g, max(s, k)) for k in (math.floor(scale * g), math.ceil(scale * g))})
        for g, s in zip(grid, smallest, strict=True)
    ]
    target = ratio * math.prod(grid)
    return min(
        ((rows, columns) for rows in around[0] for columns in around[1]),
        key=lambda kept: (abs(math.prod(kept) - target), -math.prod(kept), -kept[0]),
    )
