"""What methods have in common whose weights are made for so many slots: a plan gives their shape.

Legend: B images, N tokens, P slots, D channels.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from torch import nn

from ltm.errors import FieldError
from ltm.interfaces import Method
from ltm.merge import Weighted

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from torch import Tensor

    from ltm.interfaces import ActsOn, Grids, Site, SiteInput, SiteKind, Spread
    from ltm.merge import Merge


class Slots(nn.Module):
    """The weights of one site: tokens [B, N, D] -> the mask G, [B, N, P].

    It returns a tensor: ZeRO stage 3 finds weights for the backward pass by that.

    dim, slots: D and P. per_slot: name of the weight that has P in its first dimension.
    """

    per_slot: ClassVar[str]

    def __init__(self, dim: int, slots: int) -> None:
        super().__init__()
        self.dim, self.slots = dim, slots

    @abstractmethod
    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, D] -> G, [B, N, P]."""

    def merge(self, tokens: Tensor) -> Merge:
        """What is done with the mask; by default slots are G^T x, means of tokens."""
        # a token that no slot looks at may be left with a weight of exactly 0
        return Weighted(self(tokens), convex=True)


class SlotMethod(Method):
    """A method that learns its slots: a dense mask over all tokens, made for a number of slots.

    A plan makes the weights, and another one makes them anew until they were used: by a forward
    pass with values, or by being loaded. From then on a plan may leave sites out (ratio 1 leaves
    out all of them), and every other number of slots is a FieldError.

    Where and when is that of the public comparison (arXiv 2308.04657): on the input of blocks 3, 6
    and 9 of 12, to r, r^2 and r^3 of the tokens; attention knows no sizes.
    """

    acts_on: ActsOn = "input"
    spread: Spread = "powers"
    proportional = False
    shaped_by_plan = True
    grids: ClassVar[Grids] = "refused"
    why_no_grid: ClassVar[str] = "each of its slots is a sum over all tokens, without a place"

    def __init__(self, sites: Mapping[str, SiteKind]) -> None:
        super().__init__()
        self.keys = {name: name.replace(".", "_") for name in sites}
        self.at = nn.ModuleDict()
        self.used = False
        self.register_load_state_dict_pre_hook(_note_weights)

    @abstractmethod
    def make(self, dim: int, slots: int) -> Slots:
        """New weights for a site."""

    @property
    def made(self) -> dict[str, int]:
        """The number of slots at every site that has weights."""
        names = {key: name for name, key in self.keys.items()}
        return {names[key]: slots.slots for key, slots in self._all().items()}

    def prepare(self, sites: Mapping[str, Site], like: Tensor) -> None:
        made = self.made
        for site in sites.values() if self.used else ():
            if made.get(site.name) != site.slots:
                problem = (
                    f"keeps {site.slots} tokens at {site.name}, for which there are no weights"
                )
                raise self._refusal([*sites], problem)
        if self.used:
            return
        kept = {name: self.at[self.keys[name]] for name in made}
        self.at = nn.ModuleDict()
        for name, site in sites.items():
            slots = kept[name] if made.get(name) == site.slots else self._new(site, like)
            self.at[self.keys[name]] = slots

    def check_weights(self, state: Mapping[str, Tensor]) -> None:
        for name, slots in self.made.items():
            key = self.keys[name]
            weight = state.get(f"at.{key}.{self._all()[key].per_slot}")
            if weight is not None and len(weight) != slots:
                problem = f"keeps {slots} tokens at {name}, but the weights are for {len(weight)}"
                raise FieldError("plan", slots, f"{len(weight)} there", problem)

    def forward(self, given: SiteInput) -> Merge:
        if given.tokens.device.type != "meta":  # where costs are counted, nothing is used
            self.used = True
        return self._all()[self.keys[given.site.name]].merge(given.tokens)

    def _new(self, site: Site, like: Tensor) -> Slots:
        slots = self.make(site.dim, site.slots).train(self.training)
        return slots.to(like.device, like.dtype)

    def _all(self) -> dict[str, Any]:
        return dict(self.at.items())

    def _refusal(self, names: list[str], problem: str) -> FieldError:
        allowed = f"{self.made}, the slots that {self.name} has weights for, or ratio 1"
        return FieldError("plan", names, allowed, problem)


def _note_weights(method: SlotMethod, state: Mapping[str, Tensor], prefix: str, *_: object) -> None:
    """Before weights are loaded, those that fit are there to stay."""
    own = method.state_dict()
    given = {name: state[prefix + name] for name in own if prefix + name in state}
    method.used |= any(own[name].shape == weight.shape for name, weight in given.items())
