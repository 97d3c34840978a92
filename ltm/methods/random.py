"""The control of random merging: which tokens merge is a matter of chance, the rest is ToMe's."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from ltm.methods._options import check_whole
from ltm.methods._registry import register_method
from ltm.methods.fixed import FixedMethod

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ltm.interfaces import SiteKind, Spread


@register_method("random")
class RandomMerging(FixedMethod):
    """A control, of no paper: random merging, between attention and MLP of every block.

    N - P tokens, chosen by chance, leave; each joins one of the P that stay, chosen by chance,
    whatever either looks like: any method that looks has to be better. All else is as in ToMe
    (arXiv 2210.09461): constant schedule, means weighted by size, log sizes in attention, the class
    token passes by. Slots are the tokens that stay, in their order.

    What merges depends on seed, site and plan alone: it is the same for every image, batch, run
    and device. Where a grid stays, whole rows and columns leave and join others.

    Learned: nothing. Regimes: off-the-shelf, fine-tuned, from scratch.

    seed: 0; results of several seeds show the spread of chance.
    """

    spread: Spread = "constant"

    def __init__(self, sites: Mapping[str, SiteKind], seed: int = 0) -> None:
        super().__init__(sites)
        self.seed = check_whole("seed", seed, least=0)

    def slots_of(self, tokens: int, slots: int, site: str) -> Sequence[int]:
        chance = Random(f"{self.seed} {site} {tokens} {slots}")
        stay = sorted(chance.sample(range(tokens), slots))
        slot = {n: p for p, n in enumerate(stay)}
        return [slot[n] if n in slot else chance.randrange(slots) for n in range(tokens)]
