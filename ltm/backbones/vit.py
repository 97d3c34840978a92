"""Plain vision transformers: tokens merge between the attention and the MLP of a block.

The place is the paper's (arXiv 2407.15219, figure 1). Class and register tokens pass by. After a
merge, attention knows how many tokens each one stands for (proportional attention, ToMe,
arXiv 2210.09461, section 3) when the method asks for it.

Legend: B images, T all tokens, N image tokens, D channels, H heads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import timm
from timm.layers import Attention, PatchEmbed
from timm.models import (
    build_model_with_cfg,
    checkpoint,
    register_model,
)
from timm.models._features import feature_take_indices
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from ltm.backbones._base import DEFAULT_RATIO, Choose, Merging, MergingModel, adopt
from ltm.backbones._registry import register_family, small_cfg
from ltm.merge import presence
from ltm.plan import Grid, Kept, Plan, Site

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ltm.merge import Merge


class KeyAttention(Attention):
    """timm's attention. Modifications: also returns keys, and attention received, if asked for."""

    def forward(
        self,
        x: Tensor,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        needs_received: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """x [B, T, D], attn_mask broadcast to [B, H, T, T] -> x [B, T, D], and of the same tokens
        the keys averaged over heads [B, T, D / H], and the attention received averaged over heads
        and queries [B, T].
        """
        B, T, _ = x.shape
        qkv = self.qkv(x).reshape(B, T, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        mask = None if attn_mask is None else attn_mask.to(q.dtype)
        received = None
        if needs_received:
            logits = (q * self.scale) @ k.transpose(-2, -1)
            attention = (logits if mask is None else logits + mask).softmax(-1)
            received = attention.mean((1, 2))
            y = self.attn_drop(attention) @ v
        else:
            y = F.scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=mask,
                dropout_p=self.attn_drop.p if self.training else 0.0,
                is_causal=is_causal,
            )
        y = self.norm(y.transpose(1, 2).reshape(B, T, self.attn_dim))
        if self.gate is not None:
            y = y * self.gate(x).sigmoid()
        return self.proj_drop(self.proj(y)), k.mean(1), received


class MergingBlock(Block):
    """timm's block. Modifications: tokens may merge between attention and MLP."""

    def forward(
        self,
        x: Tensor,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        merging: Merging | None = None,
    ) -> Tensor:
        """x [B, T, D] -> [B, T, D]; with `merging` its N tokens of the image become P."""
        x = self._attended(x, attn_mask, is_causal, merging)
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))

    def _attended(
        self, x: Tensor, attn_mask: Tensor | None, is_causal: bool, merging: Merging | None
    ) -> Tensor:
        """Before the MLP. Its own method, so that what it holds is free when the MLP begins."""
        asks = merging is not None and merging.method.needs_received
        y, keys, received = self.attn(self.norm1(x), attn_mask, is_causal, asks)
        x = x + self.drop_path1(self.ls1(y))
        return x if merging is None else merging(x, keys, received)


def adopt_block(block: Any) -> MergingBlock:
    """A block that can merge, from timm's. ValueError when it is of another kind."""
    attention: Any = getattr(block, "attn", None)
    if type(block) is not Block or type(attention) is not Attention:
        raise ValueError(
            f"backbone has blocks {type(block).__name__} with {type(attention).__name__}, "
            "allowed are timm's plain Block with Attention"
        )
    block.attn = adopt(KeyAttention, attention)
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
    refuses="distilled|_18x2_|_rpn_|_xp_|_(d|p|dp)(wee|little)_",
)
class MergingViT(MergingModel, VisionTransformer):
    """timm's VisionTransformer. Modifications: blocks may merge; attention knows sizes."""

    needs_grid = False

    @classmethod
    def build(cls, name: str, image_size: Grid | None, **options: Any) -> Any:
        if image_size is not None:
            options["img_size"] = image_size
        model = timm.create_model(name, **options)
        if image_size is not None:
            _check_patches(name, image_size, model.patch_embed.patch_size)
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

    def widths(self) -> dict[str, int]:
        return {f"blocks.{i}": self.embed_dim for i in range(len(self.blocks))}

    def default_plan(self) -> float | Plan:
        return 0.73 if self.timm_name == "vit_base_patch16_224" else DEFAULT_RATIO

    def default_sites(self) -> list[str]:
        return ["blocks.0"]

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
        _refuse_masks(attn_mask, is_causal)
        self.check_images(x)
        x = self.norm_pre(self.patch_drop(self._pos_embed(self.patch_embed(x))))
        mass = None
        for name, block in zip(self.places(), self.blocks, strict=True):
            x, mass, _ = self._block(name, block, x, mass)
        x = self.norm(x)
        return x if mass is None or not self._soft else self._pooled_by_mass(x, mass)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        output_dict: bool = False,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Any:
        """As timm's: features of blocks, as maps or tokens, every one at the patches' places.

        Tokens that merged come back by `Merge.unmerge`: each patch has the features of its slot.
        """
        assert output_fmt in ("NCHW", "NLC"), "Output format must be one of NCHW or NLC."
        _refuse_masks(attn_mask, is_causal)
        self.check_images(x)
        taps, last = feature_take_indices(len(self.blocks), indices)
        prefix = self.num_prefix_tokens
        merges: list[Merge] = []
        features: list[Tensor] = []
        prefixes: list[Tensor] = []

        x = self.norm_pre(self.patch_drop(self._pos_embed(self.patch_embed(x))))
        mass = None
        for i, name in enumerate(self.places()[: last + 1 if stop_early else None]):
            x, mass, merging = self._block(name, self.blocks[i], x, mass)
            if merging is not None:
                merges.insert(0, merging.merge)
            if i in taps:
                y = self.norm(x) if norm else x
                tokens = y[:, prefix:]
                for merge in merges:
                    tokens = merge.unmerge(tokens)
                if output_fmt == "NCHW":
                    grid = self.patch_embed.grid_size
                    tokens = tokens.transpose(1, 2).reshape(x.shape[0], -1, *grid)
                features.append(tokens)
                prefixes.append(y[:, :prefix])

        if output_dict:
            out: dict[str, Any] = {"image_intermediates": features}
            if prefix and return_prefix_tokens:
                out["image_intermediates_prefix"] = prefixes
            return out if intermediates_only else {**out, "image_features": self.norm(x)}
        paired = prefix and return_prefix_tokens
        listed = list(zip(features, prefixes, strict=True)) if paired else features
        return listed if intermediates_only else (self.norm(x), listed)

    def resize(self, image_size: Grid, **options: Any) -> None:
        _check_patches(self.timm_name, image_size, self.patch_embed.patch_size)
        VisionTransformer.set_input_size(self, image_size, **options)

    @property
    def _soft(self) -> bool:
        """Tokens that leave stay in training, without their mass."""
        return self.training and self.method.learns_mass

    def _pooled_by_mass(self, x: Tensor, mass: Tensor) -> Tensor:
        """Tokens scaled so that their mean is one over those that are left, mass [B, N]."""
        if self.global_pool != "avg":
            return x
        present = presence(mass)
        share = present * (mass.shape[1] / present.sum(1, keepdim=True))
        return x * F.pad(share, (self.num_prefix_tokens, 0), value=1.0)[..., None].to(x.dtype)

    def _block(
        self, name: str, block: nn.Module, x: Tensor, mass: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Merging | None]:
        """One block, given the mass of image tokens [B, N] once they differ."""
        mask, merging = None, self.merging(name)
        if mass is not None and (self.method.proportional or self._soft):
            heeded = mass if self.method.proportional else presence(mass)
            mask = F.pad(heeded.log(), (self.num_prefix_tokens, 0))[:, None, None]
        if merging is not None:
            merging.mass, merging.prefix = mass, self.num_prefix_tokens
        if self.grad_checkpointing and self.training:
            x = checkpoint(block, x, mask, False, merging)
        else:
            x = block(x, mask, False, merging)
        return x, (mass if merging is None else merging.merged_mass()), merging


def _refuse_masks(attn_mask: Tensor | None, is_causal: bool) -> None:
    if attn_mask is not None or is_causal:
        raise ValueError("attn_mask and is_causal do not fit tokens that merge, allowed is None")


def _check_patches(name: str, image_size: Grid, patch: Grid) -> None:
    if any(size % p for size, p in zip(image_size, patch, strict=True)):
        raise ValueError(
            f"image_size is {image_size[0]} x {image_size[1]}, allowed for {name} are "
            f"multiples of its patches of {patch[0]} x {patch[1]} pixels"
        )


class ConvPatchEmbed(PatchEmbed):
    """timm's patch embedding. Modifications: three 3 x 3 convolutions in the place of one of 4 x 4.

    Early convolutions make small transformers train fast and stably (arXiv 2106.14881).
    """

    def __init__(self, in_chans: int = 3, embed_dim: int = 64, **options: Any) -> None:
        super().__init__(in_chans=in_chans, embed_dim=embed_dim, **options)
        assert self.patch_size == (4, 4)
        quarter, half = embed_dim // 4, embed_dim // 2
        self.proj = nn.Sequential(
            _conv(in_chans, quarter, stride=2),
            _conv(quarter, half, stride=2),
            nn.Conv2d(half, embed_dim, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, 3, height, width] -> tokens [B, N, D]."""
        return self.norm(self.proj(x).flatten(2).transpose(1, 2))


def _conv(channels: int, out: int, stride: int) -> nn.Module:
    conv = nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.GroupNorm(1, out), nn.GELU())


def _small_vit(variant: str, pretrained: bool, **options: Any) -> Any:
    small = {
        "img_size": 32,
        "patch_size": 4,
        "class_token": False,
        "global_pool": "avg",
        "embed_layer": ConvPatchEmbed,
    }
    model = build_model_with_cfg(VisionTransformer, variant, pretrained, **{**small, **options})
    # timm's 0.02 hides where a patch is: on a small data set, attention takes epochs to find out
    nn.init.normal_(model.pos_embed, std=0.5)
    return model


default_cfgs = {name: small_cfg("head") for name in ("vit_nano_patch4_32", "vit_micro_patch4_32")}


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
