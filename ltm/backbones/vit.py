"""timm's plain vision transformers: ViT, DeiT, CLIP, DINOv2, hybrids, and two small ones of ours.

Legend: B images, T all tokens, N image tokens, D channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from timm.layers import PatchEmbed
from timm.models import build_model_with_cfg, register_model
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ltm._compat import embedded_patches
from ltm.backbones._plain import PlainModel
from ltm.backbones._registry import register_family, small_cfg
from ltm.backbones._transformer.block import adopt_block
from ltm.errors import FieldError
from ltm.plan import DEFAULT_RATIO

if TYPE_CHECKING:
    from ltm.interfaces import Plan


@register_family(
    "timm.models.vision_transformer",
    "timm.models.vision_transformer_hybrid",
    "timm.models.deit",
    __name__,
    label="plain ViT (DeiT, CLIP, DINOv2, hybrids)",
    aliases={
        "vit_ti": "vit_tiny_patch16_224",
        "vit_s": "vit_small_patch16_224",
        "vit_b": "vit_base_patch16_224",
        "vit_l": "vit_large_patch16_224",
    },
    refuses="_18x2_|_rpn_|_xp_|_(d|p|dp)(wee|little)_",
)
class MergingViT(PlainModel, VisionTransformer):
    """timm's VisionTransformer. Modifications: blocks may merge; attention knows sizes."""

    @classmethod
    def from_timm(cls, model: Any) -> MergingViT:
        kind = type(model)
        if kind not in (VisionTransformer, VisionTransformerDistilled):
            problem = f"is a {kind.__name__}"
            raise FieldError("backbone", kind.__name__, "timm's plain VisionTransformer", problem)
        if model.dynamic_img_size:
            problem = "is true, but a plan is for one image size"
            allowed = "false; set_input_size changes the size"
            raise FieldError("dynamic_img_size", True, allowed, problem)
        adopted = cls if kind is VisionTransformer else MergingDistilledViT
        return adopted.adopted(model, adopt_block)

    def default_plan(self) -> float | Plan:
        return 0.73 if self.timm_name == "vit_base_patch16_224" else DEFAULT_RATIO

    def embedded(self, x: Tensor) -> tuple[Tensor, None]:
        return embedded_patches(self, x), None


class MergingDistilledViT(MergingViT, VisionTransformerDistilled):
    """timm's DeiT with a distillation token (arXiv 2012.12877), as `MergingViT`.

    Its logits are the mean of two classifiers' (timm's `get_classifier` gives both), of the class
    token and of the distillation token; its feature before them is the mean of the tokens.
    """


MergingViT.variants = (MergingDistilledViT,)


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
    if not pretrained:
        # timm's 0.02 hides where a patch is: on few images attention takes epochs to find out
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
