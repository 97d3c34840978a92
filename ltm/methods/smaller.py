"""The control of a smaller network: no method at all, but fewer blocks or fewer heads."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ltm.errors import FieldError
from ltm.interfaces import Hooks
from ltm.methods._registry import list_methods, register_method

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ltm.interfaces import Reduces, SiteKind

PARTS = {"shallower": "depth", "narrower": "heads"}
"""What a smaller network has fewer of."""


@register_method("smaller")
class SmallerNetwork(Hooks):
    """A control, of no paper: the plain ViT that costs as much as a method leaves, and is trained.

    Shallower, it has fewer blocks of the same width; narrower, fewer heads of the same width, so
    fewer channels. The number is the one whose GMACs come closest to the budget from below:
    `target_gmacs`, or a compression ratio, here the kept fraction of the MACs. A plan says the
    number itself, or both: {"depth": 11, "heads": 5}. It keeps all tokens.

    Learned: all weights. Regime: from scratch; pretrained weights are of another size.

    how: "shallower", or "narrower".
    as_fast_as: name of a method. The budget is then the time that the same backbone takes with that
        method, at its default or at the ratio, plan or GMACs that are given, of a forward pass on
        the machine that builds the network (its GPU, if it has one); where networks are built
        without values, it is the MACs of that one.
    """

    reduces: ClassVar[Reduces] = "size"
    shaped_by_plan = True

    def __init__(
        self,
        sites: Mapping[str, SiteKind],  # noqa: ARG002
        how: str = "shallower",
        as_fast_as: str | None = None,
    ) -> None:
        super().__init__()
        if how not in PARTS:
            raise FieldError("options.how", how, choices=[*PARTS])
        others = [name for name in list_methods() if name != "smaller"]
        if as_fast_as is not None and as_fast_as not in others:
            raise FieldError("options.as_fast_as", as_fast_as, choices=others)
        self.part = PARTS[how]
        self.as_fast_as = as_fast_as
