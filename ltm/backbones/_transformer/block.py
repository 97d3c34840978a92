"""Blocks of plain vision transformers, in which tokens merge.

Legend: B images, T all tokens, N tokens of the image, P slots, D channels.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from timm.layers import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from ltm.adopt import adopt
from ltm.backbones._merging import KeyBias, Look
from ltm.backbones._transformer.attention import ObservedAttention, PartLinear
from ltm.errors import FieldError

if TYPE_CHECKING:
    from ltm.backbones._merging import Merging, Watch
    from ltm.backbones._rotary import Rotary


class MergesTokens(nn.Module):
    """Mixin for a timm block. Modifications: tokens may merge at its input, or between attention
    and MLP."""

    attn: Any
    """Of a class that has `Observed`."""

    if TYPE_CHECKING:
        # what a block has from timm

        def __getattr__(self, name: str) -> Any: ...

    @abstractmethod
    def attention_input(self, x: Tensor) -> Tensor:
        """What attention sees of x [B, T, D]."""

    @abstractmethod
    def attention_branch(self, y: Tensor) -> Tensor:
        """What of attention's output [B, T, D] is added to x."""

    @abstractmethod
    def mlp_branch(self, x: Tensor) -> Tensor:
        """What the MLP adds to x [B, T, D]."""

    def forward(
        self,
        x: Tensor,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        merging: Merging | None = None,
        watch: Watch | None = None,
        log_sizes: Tensor | None = None,
        rotary: Rotary | None = None,
    ) -> Tensor:
        """x [B, T, D] -> [B, T, D]; with `merging` its N tokens of the image become P.

        attn_mask, log_sizes: at most one of them, see `KeyBias`. rotary: at this depth.
        """
        attention, bias = None, KeyBias(attn_mask, log_sizes)
        if merging is not None and merging.acts_on_input:
            x = self._merged_input(x, bias, merging, rotary)
            bias, attention = merging.merged_bias(), merging.merge.attention
            rotary = merging.merged_rotary()
            if watch is not None:
                watch.look = replace(watch.look, present=merging.merged_present())
            merging = None
        x = self._attended(x, bias, is_causal, merging, watch, attention, rotary)
        return x + self.mlp_branch(x)

    def _merged_input(
        self, x: Tensor, bias: KeyBias, merging: Merging, rotary: Rotary | None
    ) -> Tensor:
        if not merging.look.asks:
            return merging(x)
        normed = self.attention_input(x)
        positions = None if rotary is None else rotary.here
        seen = self.attn(
            normed, look=merging.look, attends=False, positions=positions, **bias._asdict()
        )[1]
        return merging(x, replace(seen, normed_input=normed))

    def _attended(
        self,
        x: Tensor,
        bias: KeyBias,
        is_causal: bool,
        merging: Merging | None,
        watch: Watch | None,
        attention: Tensor | None,
        rotary: Rotary | None,
    ) -> Tensor:
        """Before the MLP. A method of its own, so that its tensors are free when the MLP begins."""
        look = Look() if merging is None else merging.look
        if watch is not None:
            look = replace(watch.look, asks=look.asks | watch.look.asks)
        normed = self.attention_input(x)
        positions = None if rotary is None else rotary.here
        y, seen = self.attn(
            normed, bias.attn_mask, is_causal, look, attention, True, bias.log_sizes, positions
        )
        if "normed_input" in look.asks:
            seen = replace(seen, normed_input=normed)
        del normed
        if watch is not None:
            watch.received = seen.received
        x = x + self.attention_branch(y)
        return x if merging is None else merging(x, seen)


class MergingBlock(MergesTokens, Block):
    """timm's block, see `MergesTokens`."""

    def attention_input(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm1(x)
        return normed

    def attention_branch(self, y: Tensor) -> Tensor:
        branch: Tensor = self.drop_path1(self.ls1(y))
        return branch

    def mlp_branch(self, x: Tensor) -> Tensor:
        branch: Tensor = self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
        return branch


def adopt_block(block: Any) -> MergingBlock:
    """A block that can merge, from timm's. FieldError when it is of another kind."""
    attention: Any = getattr(block, "attn", None)
    if type(block) is not Block or type(attention) is not Attention:
        raise FieldError(
            "backbone",
            type(block).__name__,
            "timm's plain Block with Attention",
            f"has blocks {type(block).__name__} with {type(attention).__name__}",
        )
    block.attn = adopt(ObservedAttention, attention)
    block.attn.qkv = adopt(PartLinear, attention.qkv)
    return adopt(MergingBlock, block)
