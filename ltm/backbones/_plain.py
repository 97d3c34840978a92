"""What plain vision transformers share: a sequence of tokens, from which some merge in any block.

After the attention, before the MLP, is where the paper merges (arXiv 2407.15219, figure 1). Class
and register tokens pass by. After a merge, attention knows how many tokens each one stands for
(proportional attention, ToMe, arXiv 2210.09461, section 3) when the method asks for it. Where the
number of tokens differs between images, attention and pooling leave out the padding.

Legend: B images, T all tokens, N image tokens, D channels, H heads.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Self, get_args

import timm
import torch
from timm.models import checkpoint
from torch import Tensor
from torch.nn import functional as F

from ltm._compat import feature_take_indices
from ltm.adopt import adopt
from ltm.backbones._base import MergingModel
from ltm.backbones._merging import (
    Look,
    Merging,
    TokenState,
    Watch,
    key_bias,
    there,
)
from ltm.errors import FieldError
from ltm.interfaces import Evidence, Grid, Kept, Site
from ltm.merge import HALF, presence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ltm.backbones._choices import Choose
    from ltm.backbones._rotary import Rotary
    from ltm.merge import Merge


_RECEIVED: frozenset[Evidence] = frozenset({"received"})
_POOLS_OF_SOME = ("", "token", "avg", "max", "avgmax", "map")  # that can leave out tokens


class PlainModel(MergingModel):
    """Mixin for timm's VisionTransformer and its like, whose blocks are those of `MergesTokens`."""

    needs_grid = False
    offers: ClassVar[frozenset[Evidence]] = frozenset(get_args(Evidence))

    @abstractmethod
    def embedded(self, x: Tensor) -> tuple[Tensor, Rotary | None]:
        """Images [B, 3, height, width] to what the first block takes, [B, T, D], and the rotary
        positions of the image's tokens, if the network has any."""

    @classmethod
    def build(cls, name: str, image_size: Grid | None, **options: Any) -> Any:
        if image_size is not None:
            options["img_size"] = image_size
        model = timm.create_model(name, **options)
        if image_size is not None:
            _check_patches(name, image_size, _stride(model))
        return model

    @classmethod
    def adopted(cls, model: Any, adopt_block: Callable[[Any], Any]) -> Self:
        """timm's model of this class's parent, its blocks as `adopt_block` gives them.

        FieldError when it drops patches, or its size is no whole number of them.
        """
        rate = getattr(model.patch_drop, "prob", None)
        if rate is not None:
            raise FieldError("patch_drop_rate", rate, "0 where tokens merge: both remove tokens")
        _check_patches(type(model).__name__, model.patch_embed.img_size, _stride(model))
        for i, block in enumerate(model.blocks):
            model.blocks[i] = adopt_block(block)
        merging = adopt(cls, model)
        merging.head_dim = model.blocks[0].attn.head_dim
        return merging

    def resize(self, image_size: Grid, **options: Any) -> None:
        patch = options.get("patch_size") or _stride(self)
        patch = (patch, patch) if isinstance(patch, int) else patch
        _check_patches(self.timm_name, image_size, patch)
        super(MergingModel, self).set_input_size(image_size, **options)  # type: ignore[misc]

    def widths(self) -> dict[str, int]:
        return {f"blocks.{i}": self.embed_dim for i in range(len(self.blocks))}

    def default_sites(self) -> list[str]:
        return ["blocks.0"]

    def walk(self, choose: Choose) -> Iterator[Site]:
        grid, tokens = self.patch_embed.grid_size, self.patch_embed.num_patches
        for name in self.site_names():
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
        return self._through_blocks(x)[0]

    def forward_kept(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """As `forward_features`, and which patch each token of the image is, see `Merge.kept`.

        Returns tokens [B, T, D] and numbers of patches [B, P], -1 for tokens that are no patch, or
        that have left in training. None where the method merges patches.
        """
        x, merges = self._through_blocks(x)
        patches = torch.arange(self.patch_embed.num_patches, device=x.device)
        places: Tensor | None = patches.expand(x.shape[0], -1)
        for merge in merges:
            places = None if places is None else merge.kept(places)
        return x, places

    def _through_blocks(self, x: Tensor) -> tuple[Tensor, list[Merge]]:
        """Images to normed tokens [B, T, D], ready to pool, and the merges on the way."""
        self.check_images(x)
        x, rotary = self.embedded(x)
        state = TokenState(rotary=rotary)
        merges: list[Merge] = []
        for i in range(len(self.blocks)):
            x, state, merging = self._block(i, x, state)
            if merging is not None:
                merges.append(merging.merge)
        return self._ready_to_pool(self.norm(x), state), merges

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

        x, rotary = self.embedded(x)
        state = TokenState(rotary=rotary)
        for i in range(last + 1 if stop_early else len(self.blocks)):
            x, state, merging = self._block(i, x, state)
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
            if not intermediates_only:
                out["image_features"] = self._ready_to_pool(self.norm(x), state)
            return out
        paired = prefix and return_prefix_tokens
        listed = list(zip(features, prefixes, strict=True)) if paired else features
        return listed if intermediates_only else (self._ready_to_pool(self.norm(x), state), listed)

    def check_method(self) -> None:
        super().check_method()
        some = self.method.varies or self.method.learns_mass
        if some and self.global_pool not in _POOLS_OF_SOME:
            when = "" if self.method.varies else " in training"
            raise FieldError(
                "method",
                self.method.name,
                f"a method that keeps as many tokens of every image, for the pooling "
                f"{self.global_pool!r} of {self.timm_name} takes in all",
                f"is {self.method.name!r}, which keeps a number that differs{when}",
            )

    @property
    def averages_tokens(self) -> bool:
        return bool(self.global_pool == "avg")

    def pool(self, x: Tensor, pool_type: str | None = None) -> Tensor:
        """As timm's; tokens of zeros, see `_ready_to_pool`, have no part in attention pooling."""
        some = self.method.varies or (self.training and self.method.learns_mass)
        if self.attn_pool is not None and some and self.sites:
            x = x if self.pool_include_prefix else x[:, self.num_prefix_tokens :]
            left = (x != 0).any(-1)[:, None, None]
            pooled: Tensor = self.attn_pool(x, attn_mask=left)
        else:
            pooled = super().pool(x, pool_type)  # type: ignore[misc]
        return pooled

    def merging(self, name: str) -> Merging | None:
        site = self.sites.get(name)
        return None if site is None else self._merging(site, TokenState())

    def _merging(self, site: Site, state: TokenState) -> Merging:
        return Merging(
            self.method,
            site,
            state,
            prefix=self.num_prefix_tokens,
            class_token=self.has_class_token,
            offers=self.offers,
            weighs=True,
        )

    def _block(
        self, i: int, x: Tensor, state: TokenState
    ) -> tuple[Tensor, TokenState, Merging | None]:
        """Block i, given what is known of the image's tokens."""
        names, prefix = self.site_names(), self.num_prefix_tokens
        rotary = None if state.rotary is None else state.rotary.at(i)
        state = replace(state, rotary=rotary)
        site, block = self.sites.get(names[i]), self.blocks[i]
        merging = None if site is None else self._merging(site, state)
        watch = None
        if "received_before" in self.method.asks and self.sites.keys() & names[i + 1 : i + 2]:
            present = there(self.method, state)
            watch = Watch(Look(_RECEIVED, prefix, self.has_class_token, present))
        mask, log_sizes = key_bias(self.method, state, prefix)
        given = (mask, False, merging, watch, log_sizes, rotary)
        if self.grad_checkpointing and self.training:
            x = checkpoint(block, x, *given)
        else:
            x = block(x, *given)
        return x, self._state_after(state, merging, watch), merging

    def _state_after(
        self, state: TokenState, merging: Merging | None, watch: Watch | None
    ) -> TokenState:
        received = None if watch is None else watch.received
        received = None if received is None else received[:, self.num_prefix_tokens :]
        if merging is None:
            return replace(state, received=received)
        if received is not None and not merging.acts_on_input:
            received = merging.merge.carried(received)
        rotary = merging.merged_rotary()
        return TokenState(merging.merged_mass(), merging.merge.present, received, rotary)

    def _ready_to_pool(self, x: Tensor, state: TokenState) -> Tensor:
        """Tokens whose pooling is that of the tokens that are left, in part or whole.

        Where means and maxima are taken, what has left of a token gives way to the mean of all:
        that changes neither. Else it is 0.
        """
        if self.pool_by_size and self.averages_tokens and state.mass is not None:
            return self._weighed(x, state.mass, state.present)
        share = None
        if self.training and self.method.learns_mass and state.mass is not None:
            share = presence(state.mass)
        if state.present is not None:
            padded = state.present.to(x.dtype)
            share = padded if share is None else share * padded
        if share is None or self.global_pool == "token":
            return x
        share = F.pad(share, (x.shape[1] - share.shape[1], 0), value=1.0)[..., None].to(x.dtype)
        if self.global_pool in ("", "map"):
            left = share.detach() >= HALF
            return x.where(left, 0.0) * (share / share.detach().clamp_min(HALF))
        first = 0 if self.pool_include_prefix else self.num_prefix_tokens
        pooled, weight = x[:, first:], share[:, first:]
        mean = (pooled * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
        return torch.cat([x[:, :first], pooled * weight + (1 - weight) * mean], 1)

    def _weighed(self, x: Tensor, mass: Tensor, present: Tensor | None) -> Tensor:
        """Tokens times their size relative to the mean size: the mean is the one by size.

        As the code of ToMe (arXiv 2210.09461) for MAE's heads. mass: [B, N]. present: [B, N] bool.
        """
        mass = mass if present is None else mass * present
        first = 0 if self.pool_include_prefix else self.num_prefix_tokens
        weight = F.pad(mass, (self.num_prefix_tokens - first, 0), value=1.0)
        weight = weight / weight.mean(1, keepdim=True)
        return torch.cat([x[:, :first], x[:, first:] * weight[..., None].to(x.dtype)], 1)


def _refuse_masks(attn_mask: Tensor | None, is_causal: bool) -> None:
    if attn_mask is not None or is_causal:
        problem = "does not fit tokens that merge"
        raise FieldError("attn_mask", attn_mask is not None, "none, and no is_causal", problem)


def _stride(model: Any) -> Grid:
    """Pixels of an image a token, height and width."""
    height, width = model.patch_embed.feat_ratio(as_scalar=False)
    return height, width


def _check_patches(name: str, image_size: Grid, patch: Grid) -> None:
    """FieldError for an image that is no whole number of patches."""
    if any(size < p or size % p for size, p in zip(image_size, patch, strict=True)):
        raise FieldError(
            "image_size",
            image_size,
            f"multiples of the {patch[0]} x {patch[1]} pixels of a patch of {name}",
            f"is {image_size[0]} x {image_size[1]}",
        )
