"""One site, or one block, in one forward pass: what a method is shown, and what it decided.

Legend: B images, T all tokens, N tokens of the image, P slots, D channels, H heads, d channels of a
head. Where a token is several pixels, the first dimension is B x pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ltm.interfaces import NOTHING, SiteInput
from ltm.merge import HALF, presence

if TYPE_CHECKING:
    from ltm.backbones._rotary import Rotary
    from ltm.interfaces import Evidence, Method, Site
    from ltm.merge import Merge


@dataclass(frozen=True)
class Look:
    """What is to be seen of a block's attention.

    prefix: tokens before those of the image, the first of which is a class token, or not.
    present: [B, N] bool, False for tokens whose queries do not count, see `there`; None for none.
    """

    asks: frozenset[Evidence] = NOTHING
    prefix: int = 0
    class_token: bool = False
    present: Tensor | None = None


@dataclass(frozen=True)
class Seen:
    """What a block shows of its attention, as `SiteInput` has it but of all T tokens.

    None for what was not requested.
    """

    normed_input: Tensor | None = None
    keys: Tensor | None = None
    value_norms: Tensor | None = None
    received: Tensor | None = None
    class_attention: Tensor | None = None
    attention: Tensor | None = None


@dataclass(frozen=True)
class TokenState:
    """What is known of the image's tokens between blocks.

    mass: [B, N], see `SiteInput`. present: [B, N] bool. received: [B, N], attention that they
    received in the block before, where a method looks at it. rotary: their positions, if they turn.
    """

    mass: Tensor | None = None
    present: Tensor | None = None
    received: Tensor | None = None
    rotary: Rotary | None = None


class Watch:
    """Keeps the attention that tokens receive in a block, for the block after it: [B, T]."""

    received: Tensor | None = None

    def __init__(self, look: Look) -> None:
        self.look = look


def there(method: Method, state: TokenState) -> Tensor | None:
    """Which tokens of the image are there, [B, N] bool, None for all.

    Not padding, nor in training those of which more than a half has left by a `Soft` merge.
    """
    present = state.present
    if method.training and method.learns_mass and state.mass is not None:
        left = presence(state.mass.detach()) >= HALF
        present = left if present is None else present & left
    return present


class KeyBias(NamedTuple):
    """What is added to the logits of attention of all queries; at most one of the two.

    attn_mask: [B, 1, 1, T], log sizes and -inf at padding, or of tokens that have left in part;
        [B, 1, T, T] of a method whose tokens see themselves, see `Method.sees_itself`.
    log_sizes: [B, T], where every token is there: no mask is needed, see `proportional_attention`.
    """

    attn_mask: Tensor | None = None
    log_sizes: Tensor | None = None


def key_bias(method: Method, state: TokenState, prefix: int) -> KeyBias:
    """What attention has to know of its tokens."""
    soft = method.training and method.learns_mass
    log = own = None
    if state.mass is not None and (method.proportional or soft):
        sizes = state.mass if method.proportional else presence(state.mass)
        log = (sizes if state.present is None else sizes.where(state.present, 1.0)).log()
        if soft and method.sees_itself:
            own = F.pad(log.detach().clamp_min(0), (prefix, 0))  # as if nothing of it had left
    if state.present is not None:
        log = torch.zeros_like(state.present, dtype=torch.float32) if log is None else log
        log = log.masked_fill(~state.present, -torch.inf)
    if log is None:
        return KeyBias()
    log = F.pad(log, (prefix, 0))
    if own is not None:
        diagonal = torch.eye(log.shape[1], dtype=torch.bool, device=log.device)
        return KeyBias(attn_mask=torch.where(diagonal, own[:, None, None], log[:, None, None]))
    whole = state.present is None and not soft
    return KeyBias(log_sizes=log) if whole else KeyBias(attn_mask=log[:, None, None])


class Merging:
    """One site in one forward pass: makes the merge, applies it, and remembers it.

    state: of the tokens that arrive.
    pixels: tokens come as [B x pixels, N, D], and all pixels of a token are merged alike.
    prefix: how many tokens before the first one of the image pass by.
    class_token: the first of them is a class token.
    offers: what the block can show.
    weighs: attention of the network takes sizes and padding into account.
    """

    merge: Merge
    _each: Merge
    _rotary: Rotary | None

    def __init__(
        self,
        method: Method,
        site: Site,
        state: TokenState | None = None,
        *,
        pixels: int = 1,
        prefix: int = 0,
        class_token: bool = False,
        offers: frozenset[Evidence] = NOTHING,
        weighs: bool = False,
    ) -> None:
        self.method = method
        self.site = site
        self.state = state or TokenState()
        self.pixels = pixels
        self.prefix = prefix
        self.weighs = weighs
        present = there(method, self.state)
        self.look = Look(method.asks & offers, prefix, class_token, present)

    def __call__(self, tokens: Tensor, seen: Seen | None = None) -> Tensor:
        """Decide on tokens [B x pixels, prefix + N, D] and merge them: [B x pixels, prefix + P, D].

        seen: what the block shows.
        """
        shown = {} if seen is None else self._shown(seen)
        given = SiteInput(
            self._of_image(tokens, 1),
            self.site,
            self.state.mass,
            self.state.present,
            self.prefix,
            received_before=self.state.received,
            **shown,
        )
        self.merge = self.method(given)
        assert self.merge.attention is None or self.acts_on_input, "a map comes too late"
        self._rotary = None
        self._each = self.merge if self.pixels == 1 else self.merge.repeated(self.pixels)
        return self._each.after(self.prefix, tokens)

    @property
    def acts_on_input(self) -> bool:
        return self.method.acts_on == "input"

    def apply(self, features: Tensor) -> Tensor:
        """Merge other features of the same tokens in the same way: [B x pixels, N, C]."""
        return self._each.alongside(features)

    def unmerge(self, tokens: Tensor) -> Tensor:
        """[B x pixels, P, D] -> [B x pixels, N, D]."""
        return self._each.unmerge(tokens)

    def merged_mass(self) -> Tensor:
        """[B, P], after the merge."""
        sizes = self.merge.sizes(self.state.mass)
        return sizes if self.method.learns_mass else sizes.detach()

    def merged_rotary(self) -> Rotary | None:
        """The positions of the slots, which the block and the network ask for; merged once."""
        if self._rotary is None and self.state.rotary is not None:
            self._rotary = self.state.rotary.merged(self.merge)
        return self._rotary

    def merged_present(self) -> Tensor | None:
        """Which slots are there, see `there`."""
        return there(self.method, TokenState(self.merged_mass(), self.merge.present))

    def merged_bias(self) -> KeyBias:
        """What attention among the slots has to know, see `key_bias`."""
        if not self.weighs:
            return KeyBias()
        state = TokenState(self.merged_mass(), self.merge.present)
        return key_bias(self.method, state, self.prefix)

    def _shown(self, seen: Seen) -> dict[str, Tensor]:
        """What the method sees of it: the image's tokens alone, the mean over pixels."""
        by_head = {"value_norms", "class_attention"}
        found = {field.name: getattr(seen, field.name) for field in fields(seen)}
        return {
            name: self._mean_over_pixels(x)
            if name == "attention"
            else self._of_image(x, 2 if name in by_head else 1)
            for name, x in found.items()
            if x is not None and name in self.look.asks
        }

    def _of_image(self, x: Tensor, dim: int) -> Tensor:
        return self._mean_over_pixels(x.narrow(dim, self.prefix, x.shape[dim] - self.prefix))

    def _mean_over_pixels(self, x: Tensor) -> Tensor:
        return x if self.pixels == 1 else x.reshape(-1, self.pixels, *x.shape[1:]).mean(1)
