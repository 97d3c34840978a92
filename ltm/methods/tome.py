"""Token Merging, ToMe (Bolya et al., arXiv 2210.09461): merge the most similar tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ltm.methods._base import register_method
from ltm.methods.matching import MatchingMethod, Step, merge_pairs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ltm.plan import Place, Site

SCHEDULES = {"constant": "even", "decreasing": "decreasing"}


def removals(r: int | Sequence[int], schedule: str, places: int) -> list[int]:
    """How many tokens merge at each place, by the paper's r and schedule.

    constant: r everywhere. decreasing: linearly from 2r at the first place to 0 at the last.

    >>> removals(8, "constant", 3), removals(8, "decreasing", 3), removals([9, 4, 1], "constant", 3)
    ([8, 8, 8], [16, 8, 0], [9, 4, 1])
    """
    given = [r] if isinstance(r, int) else list(r) if isinstance(r, list | tuple) else []
    if not given or any(type(n) is not int or n < 0 for n in given):
        raise ValueError(
            f"option 'r' is {r!r}, allowed is a whole number from 0, or a list of them"
        )
    if isinstance(r, int):
        if schedule == "constant" or places == 1:
            return [r] * places
        return [int(2 * r * (1 - i / (places - 1))) for i in range(places)]
    if len(given) != places:
        raise ValueError(
            f"option 'r' is a list of {len(given)} numbers, allowed is one for each of "
            f"the {places} blocks"
        )
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
        places: Mapping[str, Place],
        r: int | Sequence[int] | None = None,
        schedule: str = "constant",
    ) -> None:
        super().__init__()
        if schedule not in SCHEDULES:
            raise ValueError(
                f"option 'schedule' is {schedule!r}, allowed are {' and '.join(SCHEDULES)}"
            )
        self.spread = SCHEDULES[schedule]  # type: ignore[assignment]
        self.removes = None if r is None else removals(r, schedule, len(places))

    def step(self, site: Site) -> Step:  # noqa: ARG002
        return merge_pairs
