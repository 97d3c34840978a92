"""What every site keeps: by a plan, by numbers that leave, or by a ratio and a schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from ltm.errors import FieldError
from ltm.interfaces import Grid, Kept
from ltm.plan import (
    check_names,
    check_ratio,
    geometric,
    grid_for_ratio,
    kept_grid,
    kept_tokens,
    lost_by_site,
    quarters,
    tokens_for_ratio,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ltm.interfaces import Method, Plan, SiteKind, Spread
    from ltm.plan import Removals

# what to keep at a site: its name, its grid (None when there is none any more), its tokens
Choose = Callable[[str, Grid | None, int], Kept | None]

_LEAST = 1e-6  # a kept fraction above 0


class Reducible(Protocol):
    """What of a model decides, see `MergingModel`."""

    @property
    def needs_grid(self) -> bool: ...
    @property
    def smallest_grid(self) -> Grid: ...
    @property
    def method(self) -> Method: ...
    @property
    def spread(self) -> Spread: ...
    @property
    def site_kinds(self) -> Mapping[str, SiteKind]: ...
    def site_names(self) -> list[str]: ...
    def default_sites(self) -> list[str]: ...


def on_grid(model: Reducible) -> bool:
    """Whether tokens lie on a grid after a merge."""
    return model.needs_grid or model.method.keeps_grid


def by_removals(model: Reducible, removals: Removals) -> Choose:
    names = model.site_names()

    def choose(name: str, grid: Grid | None, tokens: int) -> Kept | None:  # noqa: ARG001
        return removals.kept(names.index(name), tokens)

    return choose


def by_plan(model: Reducible, plan: Plan) -> Choose:
    """FieldError for a name that is no site; when it chooses, for what cannot be kept there."""
    check_names(plan, model.site_kinds)
    method = model.method

    def choose(name: str, grid: Grid | None, tokens: int) -> Kept | None:
        if name not in plan:
            return None
        kept = plan[name]
        if not on_grid(model) and not isinstance(kept, tuple | list):
            return kept_tokens(name, kept, tokens)
        why = None
        if method.grids == "refused":
            why = f"{method.name} keeps no grid: {method.why_no_grid}"
        elif grid is None:
            why = "a merge before it keeps no grid"
        if grid is None or why is not None:
            problem = f"keeps grid {kept!r} at {name}, but {why}"
            raise FieldError("plan", kept, f"a number from 1 to {tokens}", problem)
        return kept_grid(name, kept, grid, model.smallest_grid)

    return choose


def least_ratio(model: Reducible) -> float:
    """The smallest ratio that a plan can reach: one token at the end."""
    lost = _lost(model)
    one_by_one = _spreads(model) and model.spread != "geometric"
    return 1 - sum(lost) / len(lost) if one_by_one else 0.0


def by_ratio(model: Reducible, ratio: float) -> Choose:
    """FieldError for a ratio that the schedule cannot reach."""
    ratio, names, least = check_ratio(ratio), model.site_names(), least_ratio(model)
    if ratio < least:
        allowed = f"{least:.3f} to 1, where it is spent over all {len(names)} blocks"
        raise FieldError("compression_ratio", ratio, allowed)
    return _over_blocks(model, ratio) if _spreads(model) else _at_sites(model, ratio)


def _spreads(model: Reducible) -> bool:
    """Whether every block has its share of a ratio."""
    return model.spread not in ("once", "powers") and not model.needs_grid


def _lost(model: Reducible) -> list[float]:
    return lost_by_site(model.spread, len(model.site_names()), model.method.skips)


def _over_blocks(model: Reducible, ratio: float) -> Choose:
    """The mean kept fraction over all blocks is the ratio."""
    names, lost, skips = model.site_names(), _lost(model), model.method.skips
    first: list[tuple[int, Grid | None]] = []

    def kept_at(site: int, whole: int) -> float:
        if model.spread == "geometric":
            return geometric(ratio, whole, len(names), skips)[site] / whole
        return 1 - (1 - ratio) * lost[site] * len(lost) / sum(lost)

    def choose(name: str, grid: Grid | None, tokens: int) -> Kept | None:
        first.append((tokens, grid))
        whole, whole_grid = first[0]
        kept = kept_at(names.index(name), whole)
        if not on_grid(model):
            return max(1, round(whole * kept))
        assert grid is not None
        assert whole_grid is not None
        rows, columns = grid_for_ratio(max(kept, _LEAST), whole_grid, model.smallest_grid)
        return min(rows, grid[0]), min(columns, grid[1])

    return choose


def _at_sites(model: Reducible, ratio: float) -> Choose:
    """Some sites keep the ratio, or its powers."""
    names, skips = model.site_names(), model.method.skips
    powers = model.spread == "powers" and not model.needs_grid
    at = model.default_sites()
    if powers:
        at = [names[i] for i in sorted(quarters(len(names)))]
    elif skips and not model.needs_grid:
        at = names[skips:][:1]
    first: list[int] = []

    def choose(name: str, grid: Grid | None, tokens: int) -> Kept | None:
        first.append(tokens)
        if name not in at:
            return None
        if on_grid(model):
            assert grid is not None
            return grid_for_ratio(ratio, grid, model.smallest_grid)
        if powers:
            return tokens_for_ratio(ratio ** (at.index(name) + 1), first[0])
        return tokens_for_ratio(ratio, tokens)

    return choose
