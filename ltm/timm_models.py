"""The published networks under timm's registry: `timm.create_model("ltm_vit_small_patch16_224")`.

They are there once this module has been imported: `import ltm` alone does not load timm. Keyword
arguments of timm's models (num_classes, img_size, in_chans, drop_path_rate, features_only)
and of `ltm.create_model` (method, compression_ratio, plan, target_gmacs, options of a method) may
be mixed.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from timm.models import register_model

from ltm._compat import FeatureGetterNet
from ltm.backbones import find_backbone
from ltm.catalogue.published import PUBLISHED
from ltm.create import built_smaller, merged
from ltm.methods import check_method, list_options, reduces

if TYPE_CHECKING:
    from torch import nn

WISHES = ("compression_ratio", "plan", "target_gmacs")


def _register(backbone: str) -> None:
    def entry(pretrained: bool = False, **options: Any) -> nn.Module:
        options = {key: value for key, value in options.items() if value is not None}
        method = options.pop("method", "ltm")
        check_method(method)
        size = options.pop("img_size", None)
        features_only = options.pop("features_only", False)
        features = {key: options.pop(key) for key in ["out_indices"] if key in options}
        wishes = {key: options.pop(key, None) for key in WISHES}
        chosen = {key: options.pop(key) for key in list_options(method) if key in options}

        name, family = find_backbone(backbone)
        size = (size, size) if isinstance(size, int) else size
        build = partial(family.build, name, size, **options)
        if method != "none" and reduces(method) == "size":
            model = built_smaller(
                name, family, build, method, wishes, chosen, pretrained=pretrained
            )
        else:
            model = merged(name, family, build(pretrained=pretrained), method, wishes, chosen)
        return FeatureGetterNet(model, prune=False, **features) if features_only else model

    entry.__name__ = f"ltm_{backbone}"
    entry.__module__ = __name__
    entry.__doc__ = f"{backbone} with Learnable Token Merging, by its published plan."
    register_model(entry)


for _name in dict.fromkeys(row.backbone for row in PUBLISHED):
    _register(_name)
