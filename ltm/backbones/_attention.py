"""timm's plain attention and block, which a method can look into and merge in.

Legend: B images, T all tokens, D channels, H heads, d channels of a head.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from timm.layers import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from ltm.adopt import adopt
from ltm.backbones._merging import KeyBias, Look, Seen
from ltm.backbones._proportional import proportional_attention
from ltm.errors import FieldError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ltm.backbones._merging import Merging, Watch

_MAPS = frozenset({"received", "attention"})


class PartLinear(nn.Linear):
    """A linear layer that can compute some of its outputs alone."""

    def forward(self, x: Tensor, part: slice | None = None) -> Tensor:
        """x [..., D] -> [..., outputs of the part]."""
        if part is None:
            return F.linear(x, self.weight, self.bias)
        return F.linear(x, self.weight[part], None if self.bias is None else self.bias[part])


class ObservedAttention(Attention):
    """timm's attention. Modifications: knows how many tokens each one stands for; shows what is
    requested; may use a map that is given.

    appends_sizes: how, see `proportional_attention`.
    """

    appends_sizes: bool | None = None

    def forward(
        self,
        x: Tensor,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        look: Look | None = None,
        attention: Tensor | None = None,
        attends: bool = True,
        log_sizes: Tensor | None = None,
    ) -> tuple[Tensor, Seen]:
        """x [B, T, D], attn_mask broadcast to [B, H, T, T] -> x [B, T, D], and what is seen.

        log_sizes: [B, T], in the place of a mask.
        attention: [B, H, T, T], a map to use in the place of the softmax of queries and keys.
        attends: false only shows what is requested, and returns x itself.
        """
        look = look or Look()
        if attention is not None:
            (v,) = self._heads(x, slice(2 * self.attn_dim, None))
            y = self.attn_drop(attention.to(v.dtype)) @ v
            return self._projected(x, y), _seen_of_map(attention, look)
        only_queries = not attends and "value_norms" not in look.asks
        q, k, *values = self._heads(x, slice(2 * self.attn_dim) if only_queries else None)
        q, k = self.q_norm(q), self.k_norm(k)
        assert attn_mask is None or log_sizes is None, "a mask has the sizes"
        mask = None if attn_mask is None else attn_mask.to(q.dtype)
        if log_sizes is not None and look.asks:
            mask = log_sizes[:, None, None].to(q.dtype)
        fused = self.fused_attn or is_causal
        whole = self._map(q, k, mask) if _needs_map(look) or not fused else None
        seen = self._seen(q, k, values, mask, whole, look)
        if not attends:
            return x, seen
        (v,) = values
        if whole is not None:
            return self._projected(x, self.attn_drop(whole) @ v), seen
        dropout_p = self.attn_drop.p if self.training else 0.0
        if log_sizes is not None:
            y = proportional_attention(
                q,
                k,
                v,
                log_sizes,
                scale=self.scale,
                dropout_p=dropout_p,
                appended=self.appends_sizes,
            )
        else:
            y = F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, dropout_p=dropout_p, is_causal=is_causal
            )
        return self._projected(x, y), seen

    def _heads(self, x: Tensor, part: slice | None = None) -> tuple[Tensor, ...]:
        """Queries, keys and values, or some of them, each [B, H, T, d]."""
        qkv = self.qkv(x) if part is None else self.qkv(x, part)
        qkv = qkv.unflatten(2, (-1, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        parts: tuple[Tensor, ...] = qkv.unbind(0)
        return parts

    def _map(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        logits = (q * self.scale) @ k.transpose(-2, -1)
        return (logits if mask is None else logits + mask).softmax(-1)

    def _projected(self, x: Tensor, y: Tensor) -> Tensor:
        """Heads [B, H, T, d] to the block's output [B, T, D]."""
        y = self.norm(y.transpose(1, 2).flatten(2))
        if self.gate is not None:
            y = y * self.gate(x).sigmoid()
        out: Tensor = self.proj_drop(self.proj(y))
        return out

    def _seen(
        self,
        q: Tensor,
        k: Tensor,
        values: Sequence[Tensor],
        mask: Tensor | None,
        whole: Tensor | None,
        look: Look,
    ) -> Seen:
        """What is requested, of queries, keys and values [B, H, T, d] and of the map, if any."""
        seen = Seen() if whole is None else _seen_of_map(whole, look)
        if "keys" in look.asks:
            seen = replace(seen, keys=k.mean(1))
        if "value_norms" in look.asks:
            seen = replace(seen, value_norms=values[0].norm(dim=-1))
        if "class_attention" in look.asks and seen.class_attention is None:
            # one row of the map, so that all others may be left to the fused kernel
            mask = mask if mask is None or mask.shape[-2] == 1 else mask[..., :1, :]
            row = self._map(q[:, :, :1], k, mask)
            seen = replace(seen, class_attention=row.squeeze(2))
        return seen


def _needs_map(look: Look) -> bool:
    return bool(_MAPS & look.asks) or ("class_attention" in look.asks and not look.class_token)


def _seen_of_map(attention: Tensor, look: Look) -> Seen:
    """What a map [B, H, T, T] shows."""
    seen = Seen(attention=attention if "attention" in look.asks else None)
    if "received" in look.asks:
        whole = look.present is None
        mean = attention.mean((1, 2)) if whole else _mean_over_queries(attention, look).mean(1)
        seen = replace(seen, received=mean)
    if "class_attention" in look.asks:
        row = attention[:, :, 0] if look.class_token else _mean_over_queries(attention, look)
        seen = replace(seen, class_attention=row)
    return seen


def _mean_over_queries(attention: Tensor, look: Look) -> Tensor:
    """[B, H, T, T] -> [B, H, T]; queries of padding do not count."""
    if look.present is None:
        return attention.mean(2)
    queries = F.pad(look.present, (look.prefix, 0), value=True).to(attention.dtype)
    queries = queries / queries.sum(1, keepdim=True)
    return (attention * queries[:, None, :, None]).sum(2)


class MergingBlock(Block):
    """timm's block. Modifications: tokens may merge at its input, or between attention and MLP."""

    def forward(
        self,
        x: Tensor,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        merging: Merging | None = None,
        watch: Watch | None = None,
        log_sizes: Tensor | None = None,
    ) -> Tensor:
        """x [B, T, D] -> [B, T, D]; with `merging` its N tokens of the image become P.

        attn_mask, log_sizes: at most one of them, see `KeyBias`.
        """
        attention, bias = None, KeyBias(attn_mask, log_sizes)
        if merging is not None and merging.acts_on_input:
            x = self._merged_input(x, bias, merging)
            bias, attention = merging.merged_bias(), merging.merge.attention
            if watch is not None:
                watch.look = replace(watch.look, present=merging.merged_present())
            merging = None
        x = self._attended(x, bias, is_causal, merging, watch, attention)
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))

    def _merged_input(self, x: Tensor, bias: KeyBias, merging: Merging) -> Tensor:
        if not merging.look.asks:
            return merging(x)
        normed = self.norm1(x)
        seen = self.attn(normed, look=merging.look, attends=False, **bias._asdict())[1]
        return merging(x, replace(seen, normed_input=normed))

    def _attended(
        self,
        x: Tensor,
        bias: KeyBias,
        is_causal: bool,
        merging: Merging | None,
        watch: Watch | None,
        attention: Tensor | None,
    ) -> Tensor:
        """Before the MLP. A method of its own, so that its tensors are free when the MLP begins."""
        look = Look() if merging is None else merging.look
        if watch is not None:
            look = replace(watch.look, asks=look.asks | watch.look.asks)
        normed = self.norm1(x)
        y, seen = self.attn(
            normed, bias.attn_mask, is_causal, look, attention, True, bias.log_sizes
        )
        if "normed_input" in look.asks:
            seen = replace(seen, normed_input=normed)
        del normed
        if watch is not None:
            watch.received = seen.received
        x = x + self.drop_path1(self.ls1(y))
        return x if merging is None else merging(x, seen)


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
