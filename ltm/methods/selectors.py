"""What methods with selectors have in common: learned scores, Gumbel decisions, the ratio loss.

A selector is a small network in front of a block that scores each token. In training Gumbel-softmax
decides by the scores, and nothing is removed: tokens that are dropped are masked out of attention
(`ltm.merge.Masked`), so that selectors have gradients. Outside of training a batch stays
rectangular: the tokens of the highest scores stay, as many as the plan says.

Legend: B images, N tokens, N0 of them in the image before the first selector, D channels.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltm.errors import FieldError
from ltm.interfaces import Method
from ltm.merge import at_least_float32, presence
from ltm.methods._options import check_number
from ltm.methods._precision import full_precision
from ltm.plan import quarters

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ltm.interfaces import ActsOn, Grids, Site, SiteInput, SiteKind, Spread
    from ltm.merge import Merge

_STD = 0.02  # of new weights


def half_global(x: Tensor, present: Tensor) -> Tensor:
    """The second half of the channels becomes its mean over the tokens that are there.

    x: [B, N, ..., d], present: [B, N] in [0, 1].
    """
    there = present.to(x.dtype).view(*present.shape, *[1] * (x.ndim - 2))
    local, other = x.tensor_split([x.shape[-1] // 2], -1)
    mean = (other * there).sum(1, keepdim=True) / there.sum(1, keepdim=True)
    return torch.cat([local, mean.expand_as(other)], -1)


def narrowing(width: int) -> nn.Sequential:
    """width -> width / 2 -> width / 4 -> 2, the logits of keep and drop."""
    half, quarter = max(1, width // 2), max(1, width // 4)
    return nn.Sequential(
        nn.Linear(width, half),
        nn.GELU(),
        nn.Linear(half, quarter),
        nn.GELU(),
        nn.Linear(quarter, 2),
    )


def draw(logs: Tensor) -> Tensor:
    """Which tokens stay, [B, N]: 1 or 0 exactly, with the gradient of the Gumbel-softmax.

    logs: [B, N, 2], log-probabilities of keep and drop.
    """
    soft = F.gumbel_softmax(logs)[..., 0]
    return (soft >= 0.5).to(soft.dtype) + (soft - soft.detach())


def best(logs: Tensor, count: int) -> Tensor:
    """The numbers [B, count] of the tokens of the highest odds, for logs [B, N, 2]."""
    odds = logs[..., 0] - logs[..., 1]
    return odds.argsort(-1, descending=True)[:, :count]


class SelectorMethod(Method):
    """A method with a selector at the input of some blocks.

    selector: makes one for tokens of so many channels. Its forward takes tokens [B, N, D] and
        present [B, N], what is left of each token.
    blocks: numbers of the blocks with a selector; at a quarter, a half and three quarters of the
        depth when omitted.
    ratio_weight: of the keep-ratio term of the loss.
    """

    acts_on: ActsOn = "input"
    grids: ClassVar[Grids] = "refused"
    spread: Spread = "powers"
    proportional = False
    learns_mass = True
    sees_itself = True
    adds_to_loss = True

    def __init__(
        self,
        sites: Mapping[str, SiteKind],
        selector: Callable[[int], nn.Module],
        blocks: Sequence[int] | None,
        ratio_weight: float,
    ) -> None:
        super().__init__()
        self.ratio_weight = check_number("ratio_weight", ratio_weight, 0)
        names = list(sites)
        chosen = sorted(quarters(len(names))) if blocks is None else _check(blocks, len(names))
        self.numbers = {names[block]: i for i, block in enumerate(chosen)}
        self.selectors = nn.ModuleList(selector(sites[name].dim) for name in self.numbers)
        self.selectors.apply(_initialise)
        self._first: int | None = None
        self._gaps: dict[str, Tensor] = {}

    def prepare(self, sites: Mapping[str, Site], like: Tensor) -> None:  # noqa: ARG002
        for name in sites:
            if name not in self.numbers:
                problem = f"drops tokens at {name}, where there is no selector (options.blocks)"
                raise FieldError("plan", name, ", ".join(self.numbers), problem)
        self._first = next((site.tokens for site in sites.values()), None)

    def forward(self, given: SiteInput) -> Merge:
        selector: Any = self.selectors[self.numbers[given.site.name]]
        with full_precision(given.tokens):
            tokens = at_least_float32(given.tokens)
            mass = given.mass
            mass = tokens.new_ones(tokens.shape[:2]) if mass is None else mass.to(tokens.dtype)
            present = presence(mass)
            seen = selector(tokens.to(next(selector.parameters()).dtype), present)
            return self.decide(given.site, seen, present)

    @abstractmethod
    def decide(self, site: Site, seen: Any, present: Tensor) -> Merge:
        """From what the selector of a site made of its tokens, and what is left of them [B, N]."""

    def note(self, site: Site, share: Tensor, kept: int) -> None:
        """For the loss: the share of the image's N0 tokens that was kept, and the plan's number.

        share: [B], or one for all images.
        """
        gap = share - kept / (self._first or site.tokens)
        self._gaps[site.name] = gap.square().mean()

    def loss_terms(self) -> dict[str, Tensor]:
        gaps, self._gaps = list(self._gaps.values()), {}
        return {"keep_ratio": self.ratio_weight * torch.stack(gaps).mean()} if gaps else {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_gaps": {}}  # a copy has no part in what waits for the loss


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=_STD)
        nn.init.zeros_(module.bias)


def _check(blocks: object, count: int) -> list[int]:
    given = list(blocks) if isinstance(blocks, list | tuple) else []
    if not given or any(type(n) is not int or not 0 <= n < count for n in given):
        raise FieldError("options.blocks", blocks, f"a list of numbers from 0 to {count - 1}")
    return sorted({*given})
