"""timm's attention, which a method can look into.

Legend: B images, T all tokens, D channels, H heads, d channels of a head.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from timm.layers import Attention
from torch import Tensor, nn
from torch.nn import functional as F

from ltm.backbones._merging import Look, Seen
from ltm.backbones._transformer.proportional import proportional_attention

if TYPE_CHECKING:
    from collections.abc import Sequence

HeadsPart = Literal["qkv", "qk", "v"]

_MAPS = frozenset({"received", "attention"})


class PartLinear(nn.Linear):
    """A linear layer that can compute some of its outputs alone."""

    def forward(self, x: Tensor, part: slice | None = None) -> Tensor:
        """x [..., D] -> [..., outputs of the part]."""
        if part is None:
            return F.linear(x, self.weight, self.bias)
        return F.linear(x, self.weight[part], None if self.bias is None else self.bias[part])


class Observed(nn.Module):
    """Mixin for a timm attention. Modifications: knows how many tokens each one stands for; shows
    what is requested; may use a map that is given.

    appends_sizes: how, see `proportional_attention`.
    """

    appends_sizes: bool | None = None

    if TYPE_CHECKING:
        # what an attention has from timm

        def __getattr__(self, name: str) -> Any: ...

    @abstractmethod
    def heads(self, x: Tensor, part: HeadsPart = "qkv") -> tuple[Tensor, ...]:
        """Of x [B, T, D] queries, keys and values, or some of them, each [B, H, T, d]; of keys and
        values there may be fewer heads."""

    def rotated(self, x: Tensor, positions: Tensor) -> Tensor:  # noqa: ARG002
        """Queries or keys [B, H, T, d] turned by rotary positions, see `Rotary.here`."""
        return x

    def for_every_head(self, x: Tensor) -> Tensor:
        """Keys or values, for each head of the queries."""
        return x

    def forward(
        self,
        x: Tensor,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        look: Look | None = None,
        attention: Tensor | None = None,
        attends: bool = True,
        log_sizes: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> tuple[Tensor, Seen]:
        """x [B, T, D], attn_mask broadcast to [B, H, T, T] -> x [B, T, D], and what is seen.

        Keys are seen as they are before they are turned: what a token holds, not where it is.

        log_sizes: [B, T], in the place of a mask. positions: rotary ones, see `Rotary.here`.
        attention: [B, H, T, T], a map to use in the place of the softmax of queries and keys.
        attends: false only shows what is requested, and returns x itself.
        """
        look = look or Look()
        if attention is not None:
            (v,) = self.heads(x, "v")
            y = self.attn_drop(attention.to(v.dtype)) @ self.for_every_head(v)
            return self._projected(x, y), _seen_of_map(attention, look)
        only_queries = not attends and "value_norms" not in look.asks
        q, k, *values = self.heads(x, "qk" if only_queries else "qkv")
        dtype = q.dtype
        q, k = self.q_norm(q), self.k_norm(k)
        seen = Seen(keys=k.mean(1)) if "keys" in look.asks else Seen()
        if positions is not None:
            q, k = self.rotated(q, positions).to(dtype), self.rotated(k, positions).to(dtype)
        k, values = self.for_every_head(k), [self.for_every_head(v) for v in values]
        assert attn_mask is None or log_sizes is None, "a mask has the sizes"
        mask = None if attn_mask is None else attn_mask.to(q.dtype)
        if log_sizes is not None and look.asks:
            mask = log_sizes[:, None, None].to(q.dtype)
        fused = self.fused_attn or is_causal
        whole = self._map(q, k, mask) if _needs_map(look) or not fused else None
        seen = self._seen(seen, q, k, values, mask, whole, look)
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
        seen: Seen,
        q: Tensor,
        k: Tensor,
        values: Sequence[Tensor],
        mask: Tensor | None,
        whole: Tensor | None,
        look: Look,
    ) -> Seen:
        """What is requested, of queries, keys and values [B, H, T, d] and of the map, if any."""
        if whole is not None:
            seen = replace(_seen_of_map(whole, look), keys=seen.keys)
        if "value_norms" in look.asks:
            seen = replace(seen, value_norms=values[0].norm(dim=-1))
        if "class_attention" in look.asks and seen.class_attention is None:
            # one row of the map, so that all others may be left to the fused kernel
            mask = mask if mask is None or mask.shape[-2] == 1 else mask[..., :1, :]
            row = self._map(q[:, :, :1], k, mask)
            seen = replace(seen, class_attention=row.squeeze(2))
        return seen


class ObservedAttention(Observed, Attention):
    """timm's attention, see `Observed`."""

    def heads(self, x: Tensor, part: HeadsPart = "qkv") -> tuple[Tensor, ...]:
        return fused_heads(self, x, part)


def fused_heads(attention: Any, x: Tensor, part: HeadsPart) -> tuple[Tensor, ...]:
    """`Observed.heads` of an attention whose queries, keys and values are of one `PartLinear`."""
    columns = columns_of(part, attention.attn_dim)
    qkv = attention.qkv(x) if columns is None else attention.qkv(x, columns)
    return split_heads(qkv, attention.num_heads, attention.head_dim)


def columns_of(part: HeadsPart, width: int) -> slice | None:
    """Of the outputs of one layer for queries, keys and values, each of a width; None is all."""
    return {"qkv": None, "qk": slice(2 * width), "v": slice(2 * width, None)}[part]


def split_heads(x: Tensor, heads: int, dim: int) -> tuple[Tensor, ...]:
    """[B, T, parts x H x d] -> parts of [B, H, T, d]."""
    parts: tuple[Tensor, ...] = x.unflatten(2, (-1, heads, dim)).permute(2, 0, 3, 1, 4).unbind(0)
    return parts


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
