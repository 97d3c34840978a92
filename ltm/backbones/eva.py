"""timm's plain vision transformers with rotary positions: EVA-02, DINOv3, PE, RoPE-ViT, EVA.

Legend: B images, T all tokens, D channels, H heads, d channels of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import AttentionRope, apply_rot_embed_cat
from timm.models.eva import Eva, EvaAttention, EvaBlock, EvaBlockPostNorm
from torch import Tensor
from torch.nn import functional as F

from ltm.adopt import adopt
from ltm.backbones._plain import PlainModel
from ltm.backbones._registry import register_family
from ltm.backbones._rotary import Rotary
from ltm.backbones._transformer.attention import (
    HeadsPart,
    Observed,
    PartLinear,
    columns_of,
    fused_heads,
    split_heads,
)
from ltm.backbones._transformer.block import MergesTokens
from ltm.errors import FieldError


class _Rotated(Observed):
    """What both kinds of timm's attention with rotary positions share."""

    def rotated(self, x: Tensor, positions: Tensor) -> Tensor:
        prefix = self.num_prefix_tokens
        turned = apply_rot_embed_cat(x[:, :, prefix:], positions, half=self.rotate_half)
        return torch.cat([x[:, :, :prefix], turned], 2)

    def _separate(self, x: Tensor, part: HeadsPart) -> tuple[Tensor, ...]:
        """Heads from a layer each for queries, keys and values."""
        layers = {"q": self.q_proj, "k": self.k_proj, "v": self.v_proj}
        return tuple(
            layers[one](x).unflatten(2, (-1, self.head_dim)).transpose(1, 2) for one in part
        )


class ObservedEvaAttention(_Rotated, EvaAttention):
    """timm's attention of EVA, whose keys have no bias, see `Observed`."""

    def heads(self, x: Tensor, part: HeadsPart = "qkv") -> tuple[Tensor, ...]:
        if self.qkv is None:
            return self._separate(x, part)
        columns = columns_of(part, self.num_heads * self.head_dim) or slice(None)
        weight, bias = self.qkv.weight[columns], None
        if self.q_bias is not None:
            bias = torch.cat([self.q_bias, self.k_bias, self.v_bias])[columns]
        qkv = F.linear(x, weight, None if self.qkv_bias_separate else bias)
        if self.qkv_bias_separate and bias is not None:
            qkv = qkv + bias
        return split_heads(qkv, self.num_heads, self.head_dim)


class ObservedRopeAttention(_Rotated, AttentionRope):
    """timm's attention with rotary positions, see `Observed`."""

    def heads(self, x: Tensor, part: HeadsPart = "qkv") -> tuple[Tensor, ...]:
        if self.qkv is None:
            return self._separate(x, part)
        return fused_heads(self, x, part)

    def for_every_head(self, x: Tensor) -> Tensor:
        return x if self.num_kv_groups == 1 else x.repeat_interleave(self.num_kv_groups, 1)


class MergingEvaBlock(MergesTokens, EvaBlock):
    """timm's block of EVA, see `MergesTokens`."""

    def attention_input(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm1(x)
        return normed

    def attention_branch(self, y: Tensor) -> Tensor:
        branch: Tensor = self.drop_path1(y if self.gamma_1 is None else self.gamma_1 * y)
        return branch

    def mlp_branch(self, x: Tensor) -> Tensor:
        y = self.mlp(self.norm2(x))
        branch: Tensor = self.drop_path2(y if self.gamma_2 is None else self.gamma_2 * y)
        return branch


class MergingEvaPostNormBlock(MergesTokens, EvaBlockPostNorm):
    """timm's block of EVA with norms after attention and MLP, see `MergesTokens`."""

    def attention_input(self, x: Tensor) -> Tensor:
        return x

    def attention_branch(self, y: Tensor) -> Tensor:
        branch: Tensor = self.drop_path1(self.norm1(y))
        return branch

    def mlp_branch(self, x: Tensor) -> Tensor:
        branch: Tensor = self.drop_path2(self.norm2(self.mlp(x)))
        return branch


_BLOCKS: dict[type, Any] = {EvaBlock: MergingEvaBlock, EvaBlockPostNorm: MergingEvaPostNormBlock}
_ATTENTIONS: dict[type, Any] = {
    EvaAttention: ObservedEvaAttention,
    AttentionRope: ObservedRopeAttention,
}


@register_family(
    "timm.models.eva",
    label="rotary ViT (DINOv3, EVA-02, PE, RoPE-ViT)",
    aliases={"dinov3_s": "vit_small_patch16_dinov3", "dinov3_b": "vit_base_patch16_dinov3"},
)
class MergingEva(PlainModel, Eva):
    """timm's Eva. Modifications: blocks may merge; attention knows sizes; positions travel."""

    pool_include_prefix = False

    @classmethod
    def from_timm(cls, model: Any) -> MergingEva:
        if type(model) is not Eva:
            kind = type(model).__name__
            raise FieldError("backbone", kind, "timm's own Eva", f"is a {kind}")
        return cls.adopted(model, _adopt_block)

    @property
    def has_class_token(self) -> bool:
        """As timm's VisionTransformer says it."""
        return self.cls_token is not None

    def embedded(self, x: Tensor) -> tuple[Tensor, Rotary | None]:
        tokens, table = self._pos_embed(self.patch_embed(x))
        rotary = None if table is None else Rotary(table, by_depth=self.rope_mixed)
        return self.norm_pre(tokens), rotary


def _adopt_block(block: Any) -> Any:
    """FieldError when it is of another kind."""
    attention: Any = getattr(block, "attn", None)
    if type(block) not in _BLOCKS or type(attention) not in _ATTENTIONS:
        raise FieldError(
            "backbone",
            type(block).__name__,
            "timm's EvaBlock with EvaAttention or AttentionRope",
            f"has blocks {type(block).__name__} with {type(attention).__name__}",
        )
    if type(attention) is AttentionRope and attention.qkv is not None:
        attention.qkv = adopt(PartLinear, attention.qkv)
    block.attn = adopt(_ATTENTIONS[type(attention)], attention)
    return adopt(_BLOCKS[type(block)], block)
