"""Plain vision transformers: tokens merge between the attention and the MLP of a block.

The place is the paper's (arXiv 2407.15219, figure 1). Class and register tokens pass by. After a
merge, attention knows how many tokens each one stands for (proportional attention, ToMe,
arXiv 2210.09461, section 3) when the method asks for it.

Legend: B images, T all tokens, N image tokens, D channels, H heads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import timm
import torch
from timm.layers import Attention, PatchEmbed
from timm.models import build_model_with_cfg, checkpoint, register_model
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from ltm.backbones._base import (
    DEFAULT_RATIO,
    Choose,
    Merging,
    MergingModel,
    adopt,
    register_family,
)
from ltm.plan import Grid, Kept, Plan, Site

if TYPE_CHECKING:
    from collections.abc import Iterator


class KeyAttention(Attention):
    """timm's attention. Modifications: also returns the keys, averaged over heads."""

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> tuple[Tensor, Tensor]:
        """x [B, T, D], attn_mask broadcast to [B, H, T, T] -> (x [B, T, D], keys [B, T, D / H])."""
        B, T, _ = x.shape
        qkv = self.qkv(x).reshape(B, T, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        y = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=None if attn_mask is None else attn_mask.to(q.dtype),
            dropout_p=self.attn_drop.p if self.training else 0.0,
            is_causal=is_causal,
        )
        y = self.norm(y.transpose(1, 2).reshape(B, T, self.attn_dim))
        if self.gate is not None:
            y = y * self.gate(x).sigmoid()
        return self.proj_drop(self.proj(y)), k.mean(1)


class MergingBlock(Block):
    """timm's block. Modifications: tokens may merge between attention and MLP."""

    def forward(
        self,
        x: Tensor,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        merging: Merging | None = None,
    ) -> Tensor:
        """x [B, T, D] -> [B, T, D]; with `merging` the last N of its tokens become P."""
        y, keys = self.attn(self.norm1(x), attn_mask=attn_mask, is_causal=is_causal)
        x = x + self.drop_path1(self.ls1(y))
        if merging is not None:
            prefix = x.shape[1] - merging.site.tokens
            tokens = merging(x[:, prefix:], keys[:, prefix:])
            x = torch.cat([x[:, :prefix], tokens], dim=1) if prefix else tokens
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))


def adopt_block(block: Any) -> MergingBlock:
    """A block that can merge, from timm's. ValueError when it is of another kind."""
    if type(block) is not Block or type(block.attn) is not Attention:
        raise ValueError(
            f"backbone has blocks {type(block).__name__} with {type(block.attn).__name__}, "
            "allowed are timm's plain Block with Attention"
        )
    block.attn = adopt(KeyAttention, block.attn)
    return adopt(MergingBlock, block)


@register_family(
    "timm.models.vision_transformer",
    "timm.models.deit",
    __name__,
    aliases={
        "vit_ti": "vit_tiny_patch16_224",
        "vit_s": "vit_small_patch16_224",
        "vit_b": "vit_base_patch16_224",
        "vit_l": "vit_large_patch16_224",
    },
)
class MergingViT(MergingModel, VisionTransformer):
    """timm's VisionTransformer. Modifications: blocks may merge; attention knows sizes."""

    needs_grid = False

    @classmethod
    def build(cls, name: str, image_size: Grid | None, **options: Any) -> Any:
        if image_size is not None:
            options["img_size"] = image_size
        model = timm.create_model(name, **options)
        patch = model.patch_embed.patch_size
        if image_size and any(size % p for size, p in zip(image_size, patch, strict=True)):
            raise ValueError(
                f"image_size is {image_size[0]} x {image_size[1]}, allowed for {name} are "
                f"multiples of its patches of {patch[0]} x {patch[1]} pixels"
            )
        return model

    @classmethod
    def from_timm(cls, model: Any) -> MergingViT:
        if type(model) is not VisionTransformer:
            raise ValueError(
                f"backbone is a {type(model).__name__}, allowed is timm's plain VisionTransformer"
            )
        for i, block in enumerate(model.blocks):
            model.blocks[i] = adopt_block(block)
        return adopt(cls, model)

    def places(self) -> list[str]:
        return [f"blocks.{i}" for i in range(len(self.blocks))]

    def default_plan(self) -> float | Plan:
        return 0.73 if self.timm_name == "vit_base_patch16_224" else DEFAULT_RATIO

    def default_sites(self) -> list[str]:
        return ["blocks.0"]

    def dims(self) -> list[int]:
        return [self.embed_dim]

    def walk(self, choose: Choose) -> Iterator[Site]:
        grid, tokens = self.patch_embed.grid_size, self.patch_embed.num_patches
        for name in self.places():
            kept: Kept | None = choose(name, grid, tokens)
            if kept is None or kept in (tokens, grid):
                continue
            site = Site(name, self.embed_dim, grid, tokens, kept)
            yield site
            grid, tokens = (None if isinstance(kept, int) else kept), site.slots

    def forward_features(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """Images [B, 3, height, width] -> normed tokens [B, T, D], fewer than patches."""
        if attn_mask is not None or is_causal:
            raise ValueError(
                "attn_mask and is_causal do not fit tokens that merge, allowed is None"
            )
        x = self.norm_pre(self.patch_drop(self._pos_embed(self.patch_embed(x))))
        mass = None
        for name, block in zip(self.places(), self.blocks, strict=True):
            x, mass = self._block(name, block, x, mass)
        return self.norm(x)

    def _block(
        self, name: str, block: nn.Module, x: Tensor, mass: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """One block, given the mass of image tokens [B, N] once they differ."""
        mask, merging = None, self.merging(name)
        if mass is not None and self.method.proportional:
            mask = F.pad(mass.log(), (self.num_prefix_tokens, 0))[:, None, None]
        if merging is not None:
            merging.mass = mass
        if self.grad_checkpointing and self.training:
            x = checkpoint(block, x, mask, False, merging)
        else:
            x = block(x, mask, False, merging)
        return x, (mass if merging is None else merging.merged_mass())


class ConvPatchEmbed(PatchEmbed):
    """timm's patch embedding. Modifications: a 3 x 3 convolution of stride 2 goes before it.

    Early convolutions make small transformers train fast and stably (arXiv 2106.14881).
    """

    def __init__(self, patch_size: int = 4, in_chans: int = 3, embed_dim: int = 64, **options: Any):
        super().__init__(patch_size=patch_size, in_chans=in_chans, embed_dim=embed_dim, **options)
        half = embed_dim // 2
        self.stem = nn.Sequential(
            nn.Conv2d(in_chans, half, 3, stride=2, padding=1, bias=False),
            nn.GroupNorm(1, half),
            nn.GELU(),
        )
        self.proj = nn.Conv2d(half, embed_dim, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, 3, height, width] -> tokens [B, N, D]."""
        return self.norm(self.proj(self.stem(x)).flatten(2).transpose(1, 2))


def _small_vit(variant: str, pretrained: bool, **options: Any) -> Any:
    small = {"img_size": 32, "patch_size": 4, "class_token": False, "global_pool": "avg"}
    model: nn.Module = build_model_with_cfg(
        VisionTransformer, variant, pretrained, **{**small, **options}
    )
    return model


def _cfg() -> dict[str, Any]:
    return {
        "num_classes": 1000,
        "input_size": (3, 32, 32),
        "fixed_input_size": True,
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }


default_cfgs = {"vit_nano_patch4_32": _cfg(), "vit_micro_patch4_32": _cfg()}


@register_model
def vit_nano_patch4_32(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ViT of width 64 and depth 4 for 32 px images: small enough for tests."""
    options = {"embed_dim": 64, "depth": 4, "num_heads": 2, **kwargs}
    return _small_vit("vit_nano_patch4_32", pretrained, **options)


@register_model
def vit_micro_patch4_32(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ViT of width 96 and depth 4 for 32 px images."""
    options = {"embed_dim": 96, "depth": 4, "num_heads": 3, **kwargs}
    return _small_vit("vit_micro_patch4_32", pretrained, **options)
