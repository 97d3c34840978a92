"""Token Merging, ToMe (Bolya et al., arXiv 2210.09461): merge the most similar tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ltm.errors import FieldError
from ltm.methods._options import LARGEST
from ltm.methods._registry import register_method
from ltm.methods.matching import MatchingMethod, Step, merge_pairs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ltm.interfaces import Site, SiteKind, Spread

SCHEDULES: dict[str, Spread] = {"constant": "even", "decreasing": "decreasing"}


def removals(r: int | Sequence[int], schedule: str, sites: int) -> list[int]:
    """How many tokens merge at each site, by the paper's r and schedule.

    constant: r everywhere. decreasing: linearly from 2r at the first site to 0 at the last.

    >>> removals(8, "constant", 3), removals(8, "decreasing", 3), removals([9, 4, 1], "constant", 3)
    ([8, 8, 8], [16, 8, 0], [9, 4, 1])
    """
    given = [r] if isinstance(r, int) else list(r) if isinstance(r, list | tuple) else []
    if not given or any(type(n) is not int or not 0 <= n <= LARGEST for n in given):
        allowed = f"a whole number from 0 to {LARGEST:.0f}, or a list of them"
        raise FieldError("options.r", r, allowed)
    if isinstance(r, int):
        if schedule == "constant" or sites == 1:
            return [r] * sites
        return [int(2 * r * (1 - i / (sites - 1))) for i in range(sites)]
    if len(given) != sites:
        problem = f"is a list of {len(given)} numbers"
        raise FieldError("options.r", r, f"one for each of the {sites} blocks", problem)
    return given


@register_method("tome")
class TokenMerging(MatchingMethod):
    """ToMe (arXiv 2210.09461), between attention and MLP of every block.

    Tokens split alternately in A and B. Each A token has an edge to the B token whose key, mean
    over heads, has the largest cosine with its own; the r most similar edges merge:
    x_b <- (s_b x_b + sum_a s_a x_a) / (s_b + sum_a s_a), with s the sizes; attention adds log s.
    The class token never merges, and at most half of the tokens do at once: a plan that removes
    more takes several matchings.

    Learned: nothing. Regimes: off-the-shelf, fine-tuned, from scratch.

    r: tokens that merge in every block, or a list with one number a block, in the place of a
        ratio, plan or budget.
    schedule: "constant" or "decreasing" (from 2r to 0). A compression ratio, the mean kept
        fraction over the blocks, is spent in the same way.
    """

    def __init__(
        self,
        sites: Mapping[str, SiteKind],
        r: int | Sequence[int] | None = None,
        schedule: str = "constant",
    ) -> None:
        super().__init__()
        if schedule not in SCHEDULES:
            raise FieldError("options.schedule", schedule, choices=[*SCHEDULES])
        self.spread = SCHEDULES[schedule]
        self.removes = None if r is None else removals(r, schedule, len(sites))

    def step(self, site: Site) -> Step:  # noqa: ARG002
        return merge_pairs
