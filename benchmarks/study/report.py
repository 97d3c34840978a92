"""Tables and verdicts of a study: paired differences over sets and seeds, with intervals."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from scipy import stats

from benchmarks.study.cells import OFF_THE_SHELF, base

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.study.cells import Cell

    Found = Mapping[Cell, dict[str, Any]]

CONFIDENCE = 0.95
EQUAL = 0.5
"""Points of top-1 within which two count as equal."""


@dataclass(frozen=True)
class Compared:
    """One claim: LTM less a rival, of pairs with the same set, part and seed."""

    regime: str
    part: float
    ours: str
    rival: str
    differences: tuple[float, ...]
    adjusted: float = 1.0
    """The p-value after Holm's correction over the claims of a regime."""

    @property
    def interval(self) -> tuple[float, float]:
        """Of the mean difference, in points, by Student's t."""
        n, centre = len(self.differences), mean(self.differences)
        if n < 2:
            return float("-inf"), float("inf")
        half = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * stdev(self.differences) / n**0.5
        return centre - half, centre + half

    @property
    def p(self) -> float:
        if len(self.differences) < 2 or not any(self.differences):
            return 1.0
        if stdev(self.differences) == 0:
            return 0.0
        return float(stats.ttest_1samp(self.differences, 0).pvalue)

    @property
    def verdict(self) -> str:
        low, high = self.interval
        if self.adjusted < 1 - CONFIDENCE:
            return "better" if low > 0 else "worse"
        return "equal" if low > -EQUAL and high < EQUAL else "open"


def holm(claims: Sequence[Compared]) -> list[Compared]:
    """With adjusted p-values (Holm 1979)."""
    order = sorted(range(len(claims)), key=lambda place: claims[place].p)
    adjusted, least = [1.0] * len(claims), 0.0
    for rank, place in enumerate(order):
        least = max(least, min(1.0, (len(claims) - rank) * claims[place].p))
        adjusted[place] = least
    return [replace(one, adjusted=p) for one, p in zip(claims, adjusted, strict=True)]


def compare(
    found: Found, regime: str, part: float, ours: str, rivals: Sequence[str]
) -> list[Compared]:
    """Each rival that has at least one pair."""
    claims = []
    for rival in rivals:
        pairs = []
        for cell, row in found.items():
            if (cell.regime, cell.part, cell.method) != (regime, part, ours):
                continue
            other = _rival(found, cell, rival)
            if "test_top1" in row and other is not None:
                pairs.append(row["test_top1"] - other)
        if pairs:
            claims.append(Compared(regime, part, ours, rival, tuple(pairs)))
    return holm(claims)


def _rival(found: Found, cell: Cell, rival: str) -> float | None:
    """Its top-1 on the same set and seed. `none` off-the-shelf and calibrated is the base."""
    if rival == "none" and cell.regime != "fine-tuned":
        return found.get(base(cell.data, cell.seed), {}).get("test_top1")
    regime = cell.regime
    if rival == "smaller":
        regime = "from scratch"
    elif cell.regime == "calibrated":
        regime = OFF_THE_SHELF  # rivals without weights of their own
    other = replace(cell, regime=regime, method=rival)
    return found.get(other, {}).get("test_top1")


def table(found: Found) -> str:
    """Mean and deviation over seeds, a row a regime, part and method, a column a set; Markdown."""
    sets = sorted({cell.data for cell in found})
    rows: dict[tuple[str, float, str], dict[str, list[float]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for cell, row in found.items():
        if "test_top1" in row:
            rows[cell.regime, cell.part, cell.method][cell.data].append(row["test_top1"])
    head = ["regime", "part of the MACs", "method", *sets]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for regime, part, method in sorted(rows, key=lambda key: (key[0], -key[1], key[2])):
        cells = [_shown(rows[regime, part, method][name]) for name in sets]
        lines.append("| " + " | ".join([regime, f"{part:g}", f"`{method}`", *cells]) + " |")
    return "\n".join(lines)


def _shown(values: Sequence[float]) -> str:
    if not values:
        return "-"
    spread = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
    return f"{mean(values):.2f}{spread} ({len(values)})"


def verdicts(claims: Sequence[Compared]) -> str:
    """A sentence a claim."""
    lines = []
    for one in claims:
        low, high = one.interval
        lines.append(
            f"{one.regime}, {one.part:g}: `{one.ours}` against `{one.rival}`: "
            f"{mean(one.differences):+.2f} points [{low:+.2f}, {high:+.2f}], "
            f"{len(one.differences)} pairs, p {one.adjusted:.3f}: {one.verdict}"
        )
    return "\n".join(f"- {line}" for line in lines)
