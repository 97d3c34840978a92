"""Learnable Token Merging for vision transformers (arXiv 2407.15219), on timm's own networks.

>>> import ltm
>>> model = ltm.create_model("vit_s", method="ltm", compression_ratio=0.8)
>>> ltm.count(model).gmacs  # doctest: +SKIP

torch and timm are loaded when one of these names is first used. For names of ours in timm's own
registry, `timm.create_model("ltm_vit_small_patch16_224")`, `import ltm.timm_models` first.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ltm import plugins, timm_models
    from ltm.backbones import list_backbones, register_family
    from ltm.bottleneck import StreamingBottleneck
    from ltm.catalogue.published import Published, table
    from ltm.create import compacted, create_model, patch
    from ltm.errors import FieldError, PluginError
    from ltm.flops import Count, count
    from ltm.interfaces import Method, SiteInput, compressible
    from ltm.merge import Merge
    from ltm.methods import list_methods, list_token_methods, register_method
    from ltm.plan import elastic_ratio
    from ltm.views.heatmaps import Heatmap, beside, heatmap
    from ltm.views.maps import SiteMerge, merges

_MODULE_OF = {
    "Count": "flops",
    "FieldError": "errors",
    "Heatmap": "views.heatmaps",
    "Merge": "merge",
    "Method": "interfaces",
    "PluginError": "errors",
    "Published": "catalogue.published",
    "SiteInput": "interfaces",
    "SiteMerge": "views.maps",
    "StreamingBottleneck": "bottleneck",
    "beside": "views.heatmaps",
    "compacted": "create",
    "compressible": "interfaces",
    "count": "flops",
    "create_model": "create",
    "elastic_ratio": "plan",
    "heatmap": "views.heatmaps",
    "list_backbones": "backbones",
    "list_methods": "methods",
    "list_token_methods": "methods",
    "merges": "views.maps",
    "patch": "create",
    "register_family": "backbones",
    "register_method": "methods",
    "table": "catalogue.published",
}
_MODULES = ("plugins", "timm_models")

__all__ = [
    "Count",
    "FieldError",
    "Heatmap",
    "Merge",
    "Method",
    "PluginError",
    "Published",
    "SiteInput",
    "SiteMerge",
    "StreamingBottleneck",
    "beside",
    "compacted",
    "compressible",
    "count",
    "create_model",
    "elastic_ratio",
    "heatmap",
    "list_backbones",
    "list_methods",
    "list_token_methods",
    "merges",
    "patch",
    "plugins",
    "register_family",
    "register_method",
    "table",
    "timm_models",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"ltm.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'ltm' has no attribute {name!r}")
    return getattr(import_module(f"ltm.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
