"""From a compression ratio, a grid or an explicit plan to the tokens that every site keeps.

A plan names sites as timm names modules, and says what stays there: a number of tokens, or a
grid where the rest of the network needs one.

    {"blocks.0": 157}            ViT: 157 of 196 tokens after the attention of the first block
    {"layers.2": (6, 6)}         Swin: 7 x 7 windows become 6 x 6 at the entry of stage 3

The compression ratio is the kept fraction P/N (arXiv 2407.15219, section 3); 1 keeps everything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from ltm._arguments import number, two_numbers, whole
from ltm.errors import FieldError, quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ltm.interfaces import Grid, Plan, Spread


SCHEDULES: tuple[Spread, ...] = (
    "once",
    "constant",
    "decreasing",
    "geometric",
    "quarters",
    "powers",
)
"""How a compression ratio r is spent on a network whose tokens need no grid.

once: at the backbone's default sites, or the first at which the method acts; they keep r of their
    tokens.
constant, decreasing, quarters: over the blocks, so that the mean kept fraction is r. The same
    number leaves every block, or linearly less down to none in the last, or a third each at a
    quarter, a half and three quarters of the depth.
geometric: the same part of the tokens that arrive leaves every block (PiToMe, arXiv 2405.16148),
    so that the mean kept fraction is r.
powers: r, r^2 and r^3 of the tokens are kept at a quarter, a half and three quarters of the depth,
    blocks 3, 6 and 9 of 12 (EViT, DynamicViT, arXiv 2308.04657).
"""

DEFAULT_RATIO = 0.8
"""Of a published network without a plan of its own: the published command's."""

_MOST = 10**6  # a number of tokens beyond it is a slip of the keyboard
_LEAST_STEP = 1e-9  # between parts that keep other numbers of tokens


@dataclass(frozen=True)
class Removals:
    """How many tokens leave at each site, half of those that arrive at most.

    each: numbers, or below 1 the part of those that arrive.
    """

    each: tuple[float, ...]

    def kept(self, site: int, tokens: int) -> int:
        """How many of the tokens that arrive at a site stay."""
        leave = self.each[site]
        stay = tokens_for_part(1 - leave, tokens) if 0 < leave < 1 else tokens - int(leave)
        return max(stay, tokens - tokens // 2)


def removals(r: float | Sequence[int], spread: Spread, sites: int, skips: int = 0) -> Removals:
    """How many tokens leave at each site, by ToMe's r (arXiv 2210.09461) and a schedule.

    A number in (0, 1) is the part that leaves every site (PiToMe, arXiv 2405.16148, whose ratio is
    1 - r), whatever the schedule. constant: r everywhere. decreasing: linearly from 2r at the first
    site to 0 at the last. The first `skips` sites lose none. A list has one number a site.

    >>> removals(8, "constant", 3).each, removals(8, "decreasing", 3).each
    ((8, 8, 8), (16, 8, 0))
    """
    if isinstance(r, float) and 0 < r < 1:
        return Removals((0,) * min(skips, sites) + (r,) * (sites - skips))
    one = whole(r)
    listed = r if isinstance(r, list | tuple) else ()
    given = [n for n in map(whole, [one] if one is not None else listed) if n is not None]
    some = len(given) == (1 if one is not None else len(listed)) > 0
    if not some or not all(0 <= n <= _MOST for n in given):
        allowed = f"a whole number from 0 to {_MOST}, a list of them, or a part above 0 and below 1"
        raise FieldError("options.r", r, allowed)
    if one is None:
        if len(given) != sites:
            problem = f"is a list of {len(given)} numbers"
            raise FieldError("options.r", r, f"one for each of the {sites} blocks", problem)
        return Removals(tuple(given))
    if spread == "decreasing":
        acting = max(sites - skips - 1, 1)
        each = [int(2 * one * (1 - i / acting)) for i in range(sites - skips)]
    else:
        each = [one] * (sites - skips)
    return Removals((0,) * min(skips, sites) + tuple(each))


def check_ratio(ratio: object) -> float:
    """The ratio itself, or FieldError when it is not in (0, 1]."""
    given = number(ratio)
    if not 0 < given <= 1:
        raise FieldError("compression_ratio", ratio, "a number in (0, 1]")
    return given


def elastic_ratio(
    bounds: tuple[float, float], step: int, seed: int = 0, choices: int | None = None
) -> float:
    """A compression ratio for one training step, uniform in `bounds`.

    choices: one of so many, evenly spaced from bound to bound (2 at least), for a network that is
    compiled once for each; None for any ratio.

    Training over a range of ratios makes one set of weights serve them all. The ratio depends on
    step and seed alone, so that all ranks of a run merge to the same number of tokens:

        model.set_compression(elastic_ratio((0.5, 1.0), step))
    """
    low, high = (check_ratio(bound) for bound in bounds)
    if low > high:
        raise FieldError("elastic", bounds, "a range from low to high", f"is {low} to {high}")
    part = Random(f"{seed}-{step}").random()
    if choices is not None:
        part = int(part * choices) / (choices - 1)
    return low + (high - low) * part


def check_names(plan: Plan, allowed: Iterable[str]) -> None:
    """FieldError when a plan names a site that the network does not have."""
    allowed = list(allowed)
    for name in plan:
        if name not in allowed:
            problem = f"names site {name!r}"
            raise FieldError("plan", name, f"{allowed[0]} to {allowed[-1]}", problem, (), allowed)


def kept_tokens(name: str, kept: object, tokens: int) -> int:
    """An entry of a plan for a site without a grid: a whole number in [1, tokens]."""
    given = whole(kept)
    if given is None or not 1 <= given <= tokens:
        problem = f"keeps {quoted(kept)} tokens at {name}"
        raise FieldError("plan", kept, f"a whole number from 1 to {tokens}", problem)
    return given


def kept_grid(name: str, kept: object, grid: Grid, smallest: Grid = (1, 1)) -> Grid:
    """An entry of a plan for a site on a grid: (rows, columns), or one number for a square."""
    given = two_numbers(kept)
    if given and all(s <= k <= g for s, k, g in zip(smallest, given, grid, strict=True)):
        return given
    raise FieldError(
        "plan",
        kept,
        f"a grid of rows and columns from {smallest[0]} x {smallest[1]} to {grid[0]} x {grid[1]}",
        f"keeps {quoted(kept)} at {name}",
    )


def quarters(sites: int) -> set[int]:
    """The numbers of the sites at a quarter, a half and three quarters of the depth."""
    return {sites // 4, sites // 2, 3 * sites // 4}


def lost_by_site(spread: Spread, sites: int, skips: int = 0) -> list[float]:
    """What part of all tokens that leave has left after each site, from 0 to 1.

    spread: one that `SCHEDULES` spends over the blocks. skips: the first sites, which lose none.
    """
    if skips:
        return [0.0] * skips + lost_by_site(spread, sites - skips)
    if spread == "quarters":
        shares = [1.0 * (site in quarters(sites)) for site in range(sites)]
    elif spread == "decreasing" and sites > 1:
        shares = [1 - site / (sites - 1) for site in range(sites)]
    else:
        shares = [1.0] * sites
    return [sum(shares[: site + 1]) / sum(shares) for site in range(sites)]


def tokens_for_part(part: float, tokens: int) -> int:
    """Tokens that stay when that part does, rounded up: at least one."""
    return max(1, tokens - math.floor(tokens - tokens * part))


def geometric(ratio: float, tokens: int, sites: int, skips: int = 0) -> list[int]:
    """Tokens after each site when all keep the same part of what arrives, and their mean is nearest
    to ratio x tokens. The first `skips` sites keep all.

    >>> geometric(0.5, 64, 4)
    [47, 35, 26, 20]
    """

    def kept(part: float) -> list[int]:
        stay = [tokens] * min(skips, sites)
        for _ in range(sites - skips):
            stay.append(tokens_for_part(part, stay[-1] if stay else tokens))
        return stay

    target = ratio * tokens * sites
    low, high = 0.0, 1.0
    while high - low > _LEAST_STEP:
        middle = (low + high) / 2
        low, high = (middle, high) if sum(kept(middle)) < target else (low, middle)
    return min(kept(high), kept(low), key=lambda stay: abs(sum(stay) - target))


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
